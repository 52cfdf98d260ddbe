"""Everything that touches a socket of a client: the door, the two lanes, the listeners."""
