"""Our ends of a child's pipes, read and written from the event loop's callbacks.

Plain `os.read` when `Poller` calls, instead of the loop's pipe transports: to open the three pipes of a room costs
less than half as much, and closing never waits for input that nobody takes.
"""

import asyncio
import fcntl
import os
import sys
import termios
from collections.abc import Callable
from typing import Final

from scalesocket.io.poller import Poller
from scalesocket.io.writer import Writer

HIGH_WATER: Final = 256 * 1024
"""Bytes of unsent input above which the room is told to give no more."""
LOW_WATER: Final = 64 * 1024
"""Bytes of unsent input below which the room may go on."""
READ_SIZE: Final = 64 * 1024
"""Bytes of one read: what a pipe holds. Larger pipes would run into `pipe-user-pages-soft` (64 MiB for all of a user's)."""
MAX_LEFTOVER: Final = 1024 * 1024
"""Bytes read at most when everyone who could write is gone."""


def count_unread(fd: int) -> int:
    """Bytes that wait to be read from a pipe or a socket; 0 for one that is closed."""
    count = bytearray(4)
    try:
        fcntl.ioctl(fd, termios.FIONREAD, count)
    except (OSError, ValueError):
        return 0
    return int.from_bytes(count, sys.byteorder)


class PipeWriter(Writer):
    """The write end of a pipe.

    What the reader has not taken is queued without a bound. Above HIGH_WATER the owner is called back, and stops writing.
    """

    __slots__ = ("_on_blocked", "_on_unblocked", "_returned")

    def __init__(self, fd: int, *, poller: Poller, on_blocked: Callable[[], None], on_unblocked: Callable[[], None]) -> None:
        """Write to `fd`. Above HIGH_WATER `on_blocked` is called; at LOW_WATER, or once the pipe is closed, `on_unblocked`."""
        super().__init__(fd, poller=poller, high=HIGH_WATER, low=LOW_WATER)
        self._on_blocked = on_blocked
        self._on_unblocked = on_unblocked
        self._returned: list[bytes] = []
        """What was queued when the reader closed its end."""

    @property
    def unsent(self) -> int:
        """Bytes that the reader has not taken; 0 once the pipe is closed."""
        return self.get_write_buffer_size()

    def close(self) -> None:
        """Close the pipe once everything queued is written. Calls may repeat."""
        self._end_writes()
        if self._outgoing is None:
            self._close()

    def abort(self) -> None:
        """Close the pipe now and discard what is queued. Calls may repeat."""
        self._returned = []
        self._clear_queue()
        self._close()

    def reclaim(self) -> list[bytes]:
        """Take back what is queued, as it was written, except a piece that was sent in part; also after the reader has closed."""
        returned, self._returned = self._returned, []
        return returned if self._outgoing is None else self._outgoing.reclaim()

    def _pause(self) -> None:
        self._on_blocked()

    def _resume(self) -> None:
        self._on_unblocked()

    def _all_sent(self) -> None:
        self._close()

    def _write_failed(self, error: OSError) -> None:
        """EPIPE: the reader has closed its end. If it is a process, its output still counts."""
        self._returned = self.reclaim()
        self._clear_queue()
        self._close()

    def _close(self) -> None:
        if self._fd < 0:
            return
        self._end_writes()
        self._unwatch()
        os.close(self._fd)
        self._fd = -1
        if self._is_paused:
            self._is_paused = False
            self._resume()


class PipeReader:
    """The read end of a child's standard output or error."""

    __slots__ = ("_fd", "_is_paused", "_on_chunk", "_poller", "is_drained", "taken")

    def __init__(self, fd: int, *, poller: Poller, on_chunk: Callable[[bytes], None]) -> None:
        """Read from now on, when `poller` calls: `on_chunk` is called with each chunk."""
        self._poller = poller
        self._fd = fd
        self._on_chunk = on_chunk
        self._is_paused = False
        self.taken = 0
        """Bytes that were read."""
        self.is_drained = asyncio.Event()
        """Set at the end of file, and when the pipe is closed."""
        poller.add_reader(fd, self._read)

    @property
    def unread(self) -> int:
        """Bytes that are in the pipe."""
        return count_unread(self._fd)

    def pause(self) -> None:
        """Stop reading. Calls may repeat."""
        if not self._is_paused:
            self._is_paused = True
            if self._fd >= 0:
                self._poller.remove_reader(self._fd)

    def resume(self) -> None:
        """Read again. Calls may repeat."""
        if self._is_paused:
            self._is_paused = False
            if self._fd >= 0:
                self._poller.add_reader(self._fd, self._read)

    def finish(self) -> None:
        """Read what is left, unless reading is paused, and close the pipe. Calls may repeat.

        For when everyone who should write is gone: then the pipe holds its last 64 KiB at most.
        """
        left = MAX_LEFTOVER
        while self._fd >= 0 and not self._is_paused and left > 0:
            try:
                chunk = os.read(self._fd, READ_SIZE)
            except OSError:
                break
            if not chunk:
                break
            left -= len(chunk)
            self.taken += len(chunk)
            self._on_chunk(chunk)
        self.close()

    def close(self) -> None:
        """Close the pipe, read or not. Calls may repeat."""
        if self._fd >= 0:
            self._poller.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        self.is_drained.set()

    def _read(self) -> None:
        try:
            chunk = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return
        if chunk:
            self.taken += len(chunk)
            self._on_chunk(chunk)
        else:
            self.close()
