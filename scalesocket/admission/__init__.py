"""Decides which requests are admitted: by path, host, origin, proxy and the limits of an address."""
