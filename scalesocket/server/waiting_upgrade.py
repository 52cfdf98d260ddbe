"""A websocket upgrade on the express lane that waits: for the verification of its credential, or for the owner of its room."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

import structlog

from scalesocket.config.units import KiB
from scalesocket.server.connections import Connections

log = structlog.get_logger("connections")

MAX_EARLY: Final = 64 * KiB
"""Bytes that a client may send before its handshake is answered; then it is not read. They are its first messages."""

Decision = TypeVar("Decision", covariant=True)


class Pending(Protocol[Decision]):
    """A decision on which an upgrade waits, such as a `PendingAdmission`."""

    async def wait(self) -> Decision:
        """Wait for the decision. Called once; cancelled if the peer leaves."""


class PendingResult(Generic[Decision]):
    """The result of something awaitable, as a decision."""

    def __init__(self, result: Awaitable[Decision]) -> None:
        self._result = result

    async def wait(self) -> Decision:
        """Wait for the result."""
        return await self._result


class HeldUpgrade(asyncio.Protocol):
    """Keeps a connection while its upgrade waits."""

    __slots__ = ("_connections", "_early", "_is_paused", "_on_lost", "_transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        connections: Connections,
        early: bytes,
        *,
        is_paused: bool = False,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """Replace the protocol of `transport` until `release`.

        `early`: bytes after the request head that were read already. `is_paused`: the caller has paused reading, and nothing is
        read meanwhile. `on_lost` is called if the connection is lost.
        """
        self._transport = transport
        self._connections = connections
        self._early = early
        self._is_paused = is_paused
        self._on_lost = on_lost
        transport.set_protocol(self)

    def release(self) -> bytes:
        """Read again, and return all bytes after the request head. The caller sets another protocol."""
        self._on_lost = None
        if self._is_paused:
            self._transport.resume_reading()
        return self._early

    def data_received(self, chunk: bytes) -> None:
        """Keep the bytes, up to a bound."""
        self._early += chunk
        if len(self._early) >= MAX_EARLY and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer has left."""
        if self._on_lost is not None:
            self._on_lost()
        self._connections.forget(self._transport)


class WaitingUpgrade(HeldUpgrade, Generic[Decision]):
    """Keeps a connection until a decision. A peer that leaves cancels the wait."""

    __slots__ = ("_decided", "_task")

    def __init__(
        self,
        transport: asyncio.Transport,
        connections: Connections,
        pending: Pending[Decision],
        early: bytes,
        decided: Callable[[Decision, bytes], None],
        *,
        is_paused: bool = False,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """Keep the connection until `decided` is called, with the decision and all bytes after the request head."""
        super().__init__(transport, connections, early, is_paused=is_paused, on_lost=on_lost)
        self._decided = decided
        self._task = connections.loop.create_task(self._wait(pending), name="waiting upgrade")

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the wait."""
        self._task.cancel()
        super().connection_lost(exc)

    async def _wait(self, pending: Pending[Decision]) -> None:
        try:
            decision = await pending.wait()
            if not self._transport.is_closing():
                self._decided(decision, self.release())
        except Exception:  # also of the decision: no timeout ends a connection that waits for one
            log.exception("answering an upgrade failed")
            self._transport.abort()
