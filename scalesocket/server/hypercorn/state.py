"""Keys in the `state` of an ASGI scope, by which a connection and the app over it share what ASGI has no field for.

A stock Hypercorn that runs the app sets none of them.
"""

from typing import Final

PEER: Final = "scalesocket.peer"
"""The client's address that a PROXY header reported, or None."""
PROXIED: Final = "scalesocket.proxied"
"""Whether a PROXY header preceded the first request."""
RESERVED: Final = "scalesocket.reserved"
"""Whether descriptors run out, so that the connection gets one response, and no websocket."""
FIRST_REQUEST: Final = "scalesocket.first_request"
"""An event, to be set by the first request or websocket of the connection."""
NEW_WEBSOCKET: Final = "scalesocket.new_websocket"
"""To be called with the app of each new websocket; its `ping_interval` and `stall_timeout` then hold for the connection."""
TRUST: Final = "scalesocket.trust"
"""To be called after a request with a credential of the operator: the connection is not cut for new ones then."""
CUT: Final = "scalesocket.cut"
"""To be called to abort the connection; unsent bytes are dropped."""
