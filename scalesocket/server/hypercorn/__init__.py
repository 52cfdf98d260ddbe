"""Hypercorn, as the general lane runs it: HTTP/1.1 and HTTP/2, with bounds on what one peer may cost."""
