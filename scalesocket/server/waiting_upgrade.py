"""A websocket upgrade on the express lane that waits for the verification of its credential."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from scalesocket.admission.control import Admission, PendingAdmission
from scalesocket.admission.refusals import Refusal
from scalesocket.config.units import KiB
from scalesocket.server.connections import Connections

log = structlog.get_logger("connections")

MAX_EARLY: Final = 64 * KiB
"""Bytes that a client may send before its handshake is answered; then it is not read. They are its first messages."""

Decided = Callable[[Admission | Refusal, bytes], None]
"""Answers the upgrade; the bytes are what came after the request head."""


class WaitingUpgrade(asyncio.Protocol):
    """Keeps a connection while its upgrade waits. A peer that leaves cancels the wait."""

    __slots__ = ("_connections", "_decided", "_early", "_is_paused", "_task", "_transport")

    def __init__(
        self, transport: asyncio.Transport, connections: Connections, admission: PendingAdmission, early: bytes, decided: Decided
    ) -> None:
        """Replace the protocol of `transport` until `decided` is called. `early`: the bytes after the request head."""
        self._transport = transport
        self._connections = connections
        self._early = early
        self._decided = decided
        self._is_paused = False
        transport.set_protocol(self)
        self._task = connections.loop.create_task(self._wait(admission), name="authenticate")

    def data_received(self, chunk: bytes) -> None:
        """Keep the bytes, up to a bound."""
        self._early += chunk
        if len(self._early) >= MAX_EARLY and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the wait: the peer has left."""
        self._task.cancel()
        self._connections.forget(self._transport)

    async def _wait(self, admission: PendingAdmission) -> None:
        decision = await admission.wait()
        if self._transport.is_closing():
            return
        try:
            if self._is_paused:
                self._transport.resume_reading()
            self._decided(decision, self._early)
        except Exception:
            log.exception("answering an upgrade failed")
            self._transport.abort()
