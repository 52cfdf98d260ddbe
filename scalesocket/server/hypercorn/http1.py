"""Hypercorn's HTTP/1.1: a connection ends with its peer, and `Upgrade: h2c` is ignored."""

import h11
from hypercorn.events import Closed, Event
from hypercorn.protocol.h11 import H11Protocol

from scalesocket.server.hypercorn.context import wake_idle


class Http1(H11Protocol):
    """HTTP/1.1, which becomes HTTP/2 only by prior knowledge (RFC 9113 3.1)."""

    async def handle(self, event: Event) -> None:
        """Handle received bytes, or the end of the connection, after which no request is waited for."""
        await super().handle(event)
        if isinstance(event, Closed):
            await wake_idle(self.context.terminated)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Leave HTTP/1.1 if the first request is the preface of HTTP/2."""
        if event.method == b"PRI" and not self.keep_alive_requests:
            await super()._check_protocol(event)
