"""The control socket: the command line's connection to a running server."""
