"""Writing to a non-blocking descriptor: what is common to sockets and pipes."""

import asyncio
import os
from typing import Final

from scalesocket.config.units import KiB
from scalesocket.io.outgoing import Outgoing
from scalesocket.io.poller import Poller

HIGH_WATER: Final = 64 * KiB
"""Default high-water mark of asyncio's transports, in bytes."""


class Writer(asyncio.WriteTransport):
    """Writes to one descriptor.

    The base of `SocketTransport` and `PipeWriter`, not a part of them: a second object would cost memory for each connection
    and a call for each write.

    The first write of an event-loop iteration goes to the kernel at once; the others of that iteration follow together at its
    end. Bytes that the kernel does not take are queued, unbounded: subclasses are called to `_pause` above the high-water mark
    and to `_resume` at the low-water mark, and stop their producer.
    """

    __slots__ = (
        "_accepts",
        "_fd",
        "_gathers",
        "_high_water",
        "_is_paused",
        "_is_scheduled",
        "_is_watched",
        "_iteration",
        "_low_water",
        "_may_send",
        "_outgoing",
        "_poller",
    )

    def __init__(self, fd: int, *, poller: Poller, high: int = HIGH_WATER, low: int = HIGH_WATER // 4) -> None:
        """Write to `fd`, which must not block. `high` and `low` are the water marks, in bytes."""
        # Does not call asyncio's __init__, which makes a dict for each transport.
        self._fd = fd
        self._poller = poller
        self._high_water = high
        self._low_water = low
        self._outgoing: Outgoing | None = None
        """What is queued; None if nothing is."""
        self._iteration = -1
        """The last event-loop iteration with an immediate write."""
        self._accepts = True
        """Whether writes are accepted. If not, they are discarded."""
        self._gathers = False
        """Whether no write is immediate."""
        self._may_send = True
        """Whether a write may be immediate: nothing is queued, and neither of the above forbids it."""
        self._is_scheduled = False
        """Whether the queue is flushed at the end of the iteration."""
        self._is_watched = False
        """Whether the queue is flushed when the descriptor becomes writable."""
        self._is_paused = False
        """Whether `_pause` was called, and `_resume` not yet."""

    def write(self, data: bytes | bytearray | memoryview) -> bool:  # type: ignore[override]  # asyncio's returns None
        """Send or queue `data`; False if it was discarded, because writing has ended."""
        piece = data if isinstance(data, bytes) else bytes(data)  # a subclass is kept: it comes back from `reclaim`
        if self._may_send and self._iteration != self._poller.iteration:  # nearly always
            self._iteration = self._poller.iteration
            try:
                taken = os.write(self._fd, piece)
            except BlockingIOError:
                taken = 0
            except OSError as error:
                self._end_writes()
                self._outgoing = Outgoing()
                self._outgoing.append(piece)
                self._write_failed(error)
                return True
            if taken == len(piece):
                return True
            self._watch()
        elif not self._accepts:
            return self._discard()
        elif not piece:
            return True
        else:
            taken = 0
            if not self._is_watched and not self._is_scheduled:
                self._is_scheduled = True
                self._poller.loop.call_soon(self._flush)
        self._may_send = False
        outgoing = self._outgoing
        if outgoing is None:
            outgoing = self._outgoing = Outgoing()
        outgoing.append(memoryview(piece)[taken:] if taken else piece)  # a view: the frame of a broadcast is held once
        if outgoing.size > self._high_water and not self._is_paused:
            self._pause_if_full()
        return True

    def write_later(self, data: bytes) -> None:
        """Send `data` at the end of this event-loop iteration, in one call with what is written meanwhile."""
        self._may_send = False  # until the queue is empty
        self.write(data)

    def gather_writes(self) -> None:
        """Delay the first write of an event-loop iteration too, so that all its writes are sent as one."""
        self._gathers = True
        self._may_send = False

    def get_write_buffer_size(self) -> int:
        """Bytes that are queued."""
        return self._outgoing.size if self._outgoing is not None else 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low-water and the high-water mark, in bytes."""
        return self._low_water, self._high_water

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the water marks, in bytes. `low` is a quarter of `high` by default."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        self._high_water = high
        self._low_water = high // 4 if low is None else low
        self._pause_if_full()

    # --- For subclasses

    def _pause(self) -> None:
        """The queue has grown above the high-water mark."""
        raise NotImplementedError

    def _resume(self) -> None:
        """The queue has shrunk to the low-water mark."""
        raise NotImplementedError

    def _all_sent(self) -> None:
        """Everything queued has been sent after writing had ended."""
        raise NotImplementedError

    def _write_failed(self, error: OSError) -> None:
        """The descriptor never takes anything again, and writing has ended. The queue is still there."""
        raise NotImplementedError

    def _discard(self) -> bool:
        """Discard a write, since writing has ended."""
        return False

    def _end_writes(self) -> None:
        """Discard writes from now on; what is queued is still sent."""
        self._accepts = self._may_send = False

    def _clear_queue(self) -> None:
        """Discard what is queued."""
        self._outgoing = None
        self._unwatch()

    # --- The queue

    def _pause_if_full(self) -> None:
        if self._accepts and not self._is_watched:  # the kernel was not offered all of it yet
            self._flush()
        if self._accepts and not self._is_paused and self.get_write_buffer_size() > self._high_water:
            self._is_paused = True
            self._pause()

    def _watch(self) -> None:
        if not self._is_watched:
            self._is_watched = True
            self._poller.add_writer(self._fd, self._flush)

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._poller.remove_writer(self._fd)

    def _flush(self) -> None:
        """Send what is queued, as far as the kernel takes it."""
        self._is_scheduled = False
        outgoing = self._outgoing
        if outgoing is None:
            return
        try:
            outgoing.write(self._fd)
        except OSError as error:
            self._end_writes()
            self._write_failed(error)
            return
        if outgoing.size:
            self._watch()
        else:
            self._clear_queue()
            if self._accepts:
                self._may_send = not self._gathers
            else:
                self._all_sent()
        if self._is_paused and outgoing.size <= self._low_water:
            self._is_paused = False
            self._resume()
