"""Rooms: one name, one backend, its clients, its history, its life."""
