"""Clients and their audience: everything that a room does not need to know about its websockets."""
