"""Hypercorn's HTTP/1.1: a connection ends with its peer, and `Upgrade: h2c` is ignored."""

import h11
from hypercorn.events import Closed, Event
from hypercorn.protocol.h11 import H11Protocol

from scalesocket.server.hypercorn.context import wake_idle
from scalesocket.server.security_headers import add_missing


class Http1(H11Protocol):
    """HTTP/1.1, which becomes HTTP/2 only by prior knowledge (RFC 9113 3.1)."""

    async def handle(self, event: Event) -> None:
        """Handle received bytes, or the end of the connection, after which no request is waited for."""
        await super().handle(event)
        if isinstance(event, Closed):
            await wake_idle(self.context.terminated)

    async def _send_h11_event(self, event: h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage) -> None:
        """Send the head or a part of a response. Hypercorn's own errors have no security headers yet."""
        if isinstance(event, h11.Response):
            event = h11.Response(status_code=event.status_code, headers=add_missing(event.headers), reason=event.reason)
        await super()._send_h11_event(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Leave HTTP/1.1 if the first request is the preface of HTTP/2."""
        if event.method == b"PRI" and not self.keep_alive_requests:
            await super()._check_protocol(event)
