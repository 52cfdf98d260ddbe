"""Makes Hypercorn end the websockets that it refuses itself: alone it answers 400 and keeps the connection, without a deadline.

It refuses a malformed upgrade, and an upgrade that is followed by data before it was accepted. In the second case it does not
notify the app either, so the client would stay in its room after its peer is gone.
"""

from hypercorn.protocol import h2, h11
from hypercorn.protocol.events import Body, Data, Event, Request, StreamClosed
from hypercorn.protocol.ws_stream import WSStream

ABNORMAL_CLOSURE = 1006
"""Close code of a connection that ended without a close frame (RFC 6455 7.1.5)."""


class EndingStream(WSStream):
    """Hypercorn's part of a websocket, which ends where it was refused."""

    async def handle(self, event: Event) -> None:
        """Take an event of the connection, and end the stream if it was refused for that."""
        is_early = isinstance(event, Body | Data) and not self.handshake.accepted
        may_refuse = not self.closed and (is_early or isinstance(event, Request))
        await super().handle(event)
        if may_refuse and self.closed:
            if self.app_put is not None:
                await self.app_put({"type": "websocket.disconnect", "code": ABNORMAL_CLOSURE})
            await self.send(StreamClosed(stream_id=self.stream_id))


def end_refused_upgrades() -> None:
    """Make Hypercorn end them from now on. Calls may repeat."""
    for protocol in (h11, h2):
        vars(protocol)["WSStream"] = EndingStream
