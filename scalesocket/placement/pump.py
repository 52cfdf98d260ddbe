"""Copies bytes between a client's connection and one end of a socket pair, whose other end the owner of the room has.

For connections whose descriptor cannot be handed over: the state of TLS is in this process. Both directions are bounded and
have backpressure: what one side does not take is not read from the other. Ends and aborts pass in both directions.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from scalesocket.config.units import KiB
from scalesocket.io.poller import Poller
from scalesocket.placement.passages import Passages, has_ended
from scalesocket.placement.stream import Stream

BUFFER: Final = 64 * KiB
"""Bytes that wait in one direction, besides those of the kernel, above which nothing more is read."""
CHECK_INTERVAL: Final = 1.0
"""Seconds between two checks of a client that takes nothing, or whose owner has ended."""


class Pump(asyncio.Protocol):
    """One pumped connection. `outer` is the client's side, `inner` our end of the stream to the owner."""

    __slots__ = (
        "_has_inner_ended",
        "_inner",
        "_is_dropping",
        "_is_inner_full",
        "_is_outer_full",
        "_loop",
        "_lost",
        "_on_lost",
        "_outer",
        "_passages",
        "_patience",
        "_timer",
    )

    def __init__(
        self,
        outer: asyncio.Transport,
        inner: Stream,
        early: bytes,
        *,
        poller: Poller,
        passages: Passages,
        patience: float,
        on_lost: Callable[[asyncio.Transport], None],
    ) -> None:
        """Take over `outer`, whose reading may be paused, and `inner`.

        `early`: bytes from the client that were read already. `patience`: seconds for which a client may take nothing after the
        owner has ended. `on_lost` is called with `outer` when the client's connection is lost.
        """
        self._loop = poller.loop
        self._passages = passages
        self._patience = patience
        self._on_lost = on_lost
        self._timer: asyncio.TimerHandle | None = None
        self._has_inner_ended = False
        """Whether the owner has ended its side."""
        self._lost = 0
        """Sides whose connection is lost."""
        self._is_outer_full = False
        """Whether the client takes nothing more at the moment."""
        self._is_inner_full = False
        """Whether the owner does not."""
        self._is_dropping = False
        """Whether what the client sends is dropped, because the owner takes nothing any more."""
        self._outer = outer
        self._inner = inner.transport
        passages.add(self)
        outer.set_write_buffer_limits(high=BUFFER)
        outer.set_protocol(self)
        inner.transport.set_protocol(_InnerSide(self, outer))
        if inner.early:
            outer.write(inner.early)
        if not self._is_outer_full:
            inner.transport.resume_reading()
        if early:
            inner.transport.write(early)
        if not self._is_inner_full:
            outer.resume_reading()

    # --- Callbacks of the client's transport

    def data_received(self, chunk: bytes) -> None:
        """Pass bytes to the owner."""
        if not self._is_dropping:
            self._inner.write(chunk)

    def eof_received(self) -> bool:
        """End the owner's input, too. Returns whether our side stays open."""
        self._inner.write_eof()
        return self._outer.can_write_eof()  # TLS has no half-closed connections

    def pause_writing(self) -> None:
        """Read nothing more from the owner."""
        self._is_outer_full = True
        self._inner.pause_reading()
        self._watch()

    def resume_writing(self) -> None:
        """Read from the owner again."""
        self._is_outer_full = False
        self._inner.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the other side: what the client sent before is still delivered."""
        self._on_lost(self._outer)
        self._inner.close()
        self._side_lost()

    # --- For `Passages`

    def end(self) -> None:
        """End the owner's input. It closes the websocket, since this process stops (`Passage.end`)."""
        self._is_dropping = True
        self._inner.write_eof()

    def cut(self) -> None:
        """Abort both connections."""
        self._inner.abort()
        self._outer.abort()

    # --- The owner's side

    def fill_inner(self, is_full: bool) -> None:
        """Read nothing more from the client, or again."""
        self._is_inner_full = is_full
        if is_full:
            self._outer.pause_reading()
        else:
            self._outer.resume_reading()

    def end_inner(self) -> None:
        """The owner has ended its side, or the whole connection."""
        self._has_inner_ended = True
        if self._outer.can_write_eof():
            self._outer.write_eof()
        else:
            self._outer.close()
        self._watch()

    def lose_inner(self) -> None:
        """The connection to the owner is lost."""
        if not self._has_inner_ended:  # the owner has aborted the connection
            self._outer.abort()
        self._is_dropping = True
        self._side_lost()

    def _side_lost(self) -> None:
        self._lost += 1
        if self._lost == 2:
            if self._timer is not None:
                self._timer.cancel()
            self._passages.remove(self)

    # --- A client that takes nothing

    def _watch(self) -> None:
        """Check the client from time to time: nothing else shows that the owner has ended while nothing is read from it."""
        if self._timer is None:
            self._schedule(self._outer.get_write_buffer_size(), self._loop.time() + self._patience)

    def _schedule(self, unsent: int, deadline: float) -> None:
        self._timer = self._loop.call_later(CHECK_INTERVAL, self._check, unsent, deadline)

    def _check(self, before: int, deadline: float) -> None:
        """Once the owner has ended: close the connection when everything is sent, and abort it if the client takes nothing."""
        self._timer = None
        unsent, now = self._outer.get_write_buffer_size(), self._loop.time()
        if not self._has_inner_ended and not has_ended(self._inner.fileno()):
            if self._is_outer_full:
                self._schedule(unsent, now + self._patience)
            return
        if not unsent and not before:  # not at once: closing with unread input could discard what was sent last
            self._outer.close()
        if unsent < before:
            deadline = now + self._patience
        if now < deadline:
            self._schedule(unsent, deadline)
        else:
            self.cut()


class _InnerSide(asyncio.Protocol):
    """The protocol of our end of the stream to the owner."""

    __slots__ = ("_outer", "_pump")

    def __init__(self, pump: Pump, outer: asyncio.Transport) -> None:
        self._pump = pump
        self._outer = outer

    def data_received(self, chunk: bytes) -> None:
        self._outer.write(chunk)

    def eof_received(self) -> bool:
        self._pump.end_inner()
        return True

    def pause_writing(self) -> None:
        self._pump.fill_inner(True)

    def resume_writing(self) -> None:
        self._pump.fill_inner(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pump.lose_inner()
