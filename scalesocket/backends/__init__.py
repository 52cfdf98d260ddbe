"""The other side of a room: a process on stdio, a process on a port, or a TCP or unix target."""
