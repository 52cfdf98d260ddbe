"""Protocols without I/O, as pure functions and state machines: bytes in, values out."""
