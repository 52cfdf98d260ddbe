"""Rooms: each has a name, a backend, an audience of clients, a history and a lifecycle."""
