"""Hypercorn's websockets, without compression, and with an end to those that Hypercorn refuses."""

from hypercorn.protocol.events import Body, Data, Event, Request, StreamClosed
from hypercorn.protocol.ws_stream import WSStream
from wsproto.extensions import PerMessageDeflate

ABNORMAL_CLOSURE = 1006
"""Close code of a connection that ended without a close frame (RFC 6455 7.1.5)."""


class NoDeflate(PerMessageDeflate):
    """permessage-deflate, which declines every offer (RFC 7692 5.1).

    wsproto inflates without a bound, before Hypercorn checks the size: 61 kB became 60 MiB and blocked the event loop for 0.23 s.
    `compression` has no effect there.
    """

    def accept(self, offer: str) -> None:
        """Decline."""


class WebsocketStream(WSStream):
    """A websocket that ends when Hypercorn refuses it.

    Hypercorn refuses a malformed upgrade, and an upgrade that is followed by data before it was accepted. It answers 400 and
    keeps the connection without a deadline. In the second case it does not notify the app, so the client would stay in its room.
    """

    async def handle(self, event: Event) -> None:
        """Handle an event of the connection, and end the stream if Hypercorn refused it."""
        is_early = isinstance(event, Body | Data) and not self.handshake.accepted
        may_refuse = not self.closed and (is_early or isinstance(event, Request))
        await super().handle(event)
        if may_refuse and self.closed:
            if self.app_put is not None:
                await self.app_put({"type": "websocket.disconnect", "code": ABNORMAL_CLOSURE})
            await self.send(StreamClosed(stream_id=self.stream_id))
