"""Makes Hypercorn use our protocols and websockets: it finds its own by module-level names."""

import hypercorn.protocol
from hypercorn.protocol import h2, h11, ws_stream

from scalesocket.server.hypercorn.http1 import Http1
from scalesocket.server.hypercorn.http2 import Http2
from scalesocket.server.hypercorn.outgoing_stream import OutgoingStream
from scalesocket.server.hypercorn.websocket import NoDeflate, WebsocketStream


def patch_hypercorn() -> None:
    """Replace Hypercorn's classes by ours, in this process. Calls may repeat."""
    vars(hypercorn.protocol).update(H11Protocol=Http1, H2Protocol=Http2)
    vars(h11).update(WSStream=WebsocketStream)
    vars(h2).update(WSStream=WebsocketStream, StreamBuffer=OutgoingStream)
    vars(ws_stream).update(PerMessageDeflate=NoDeflate)
