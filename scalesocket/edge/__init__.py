"""Clients at the edge of the server: what a websocket is to its room, and a room to its websockets."""
