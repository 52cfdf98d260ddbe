"""Copies bytes between a client's connection and one end of a socket pair, whose other end the owner of the room has.

For connections whose descriptor cannot be handed over: the state of TLS is in this process. Both directions are bounded, and push
back: what one side does not take is not read from the other. Ends pass in both directions, and so do aborts.
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


class Pump:
    """One pumped connection. `outer` is the client's side, `inner` our end of the stream to the owner."""

    def __init__(
        self,
        outer: asyncio.Transport,
        inner: Stream,
        early: bytes,
        *,
        poller: Poller,
        passages: Passages,
        patience: float,
        on_lost: Callable[[], None],
    ) -> None:
        """Take over `outer`, whose reading may be paused, and `inner`.

        `early`: bytes from the client that were read already. `patience`: seconds for which a client may take nothing after the
        owner has ended. `on_lost` is called when the client's connection is lost.
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
        self._outer = outer
        self._outer_side, inner_side = _Side(self._outer_ended, self._outer_lost), _Side(self._inner_ended, self._inner_lost)
        self._outer_side.on_full = self._watch
        self._inner = inner.transport
        passages.add(self)
        self._outer_side.target, inner_side.target = self._inner, outer
        outer.set_write_buffer_limits(high=BUFFER)
        outer.set_protocol(self._outer_side)
        self._inner.set_protocol(inner_side)
        if inner.early:
            outer.write(inner.early)
        if not self._outer_side.is_full:
            self._inner.resume_reading()
        if early:
            self._inner.write(early)
        if not inner_side.is_full:
            outer.resume_reading()

    def end(self) -> None:
        """End the owner's input. It closes the websocket, since this process stops (`Passage.end`)."""
        self._outer_side.is_dropping = True
        self._inner.write_eof()

    def cut(self) -> None:
        """Abort both connections."""
        self._inner.abort()
        self._outer.abort()

    # --- Ends

    def _outer_ended(self) -> bool:
        """The client has ended its side. Returns whether ours stays open."""
        self._inner.write_eof()
        return self._outer.can_write_eof()  # TLS has no half-closed connections

    def _inner_ended(self) -> bool:
        """The owner has ended its side, or the whole connection."""
        self._has_inner_ended = True
        if self._outer.can_write_eof():
            self._outer.write_eof()
        else:
            self._outer.close()
        self._watch()
        return True

    def _outer_lost(self, exc: Exception | None) -> None:
        self._on_lost()
        self._inner.close()  # what the client sent before is still delivered
        self._side_lost()

    def _inner_lost(self, exc: Exception | None) -> None:
        if not self._has_inner_ended:  # the owner has aborted the connection
            self._outer.abort()
        self._outer_side.is_dropping = True
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
            if self._outer_side.is_full:
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


class _Side(asyncio.Protocol):
    """One of the two connections. What is read from it is written to `target`, the other one."""

    target: asyncio.Transport

    def __init__(self, on_end: Callable[[], bool], on_lost: Callable[[Exception | None], None]) -> None:
        self._on_end = on_end
        self._on_lost = on_lost
        self.is_full = False
        """Whether it takes nothing more at the moment."""
        self.on_full: Callable[[], None] | None = None
        self.is_dropping = False
        """Whether what is read is dropped, because the other one accepts no more data."""

    def data_received(self, chunk: bytes) -> None:
        if not self.is_dropping:
            self.target.write(chunk)

    def eof_received(self) -> bool:
        return self._on_end()

    def pause_writing(self) -> None:
        """Read nothing more from the other one."""
        self.is_full = True
        self.target.pause_reading()
        if self.on_full is not None:
            self.on_full()

    def resume_writing(self) -> None:
        self.is_full = False
        self.target.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(exc)
