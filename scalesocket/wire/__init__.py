"""What goes over the wire, as pure functions and sans-IO state machines: bytes in, values out."""
