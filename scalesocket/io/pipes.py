"""Both ends of a pipe, written and read on the poller.

Opening the three pipes of a process takes less than half the time that the event loop's pipe transports take, and closing a pipe
never waits for a reader.
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
"""Queued bytes above which the owner of a `PipeWriter` is blocked."""
LOW_WATER: Final = 64 * 1024
"""Queued bytes at which the owner is unblocked."""
READ_SIZE: Final = 64 * 1024
"""Bytes of one read, and the size of a pipe. Larger pipes could exceed `pipe-user-pages-soft`, 64 MiB for all pipes of a user."""
MAX_LEFTOVER: Final = 1024 * 1024
"""Bytes that `finish` reads at most."""


def count_unread(fd: int) -> int:
    """Return the bytes that can be read from a pipe or a socket; 0 if it is closed."""
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
    """The read end of a pipe."""

    __slots__ = ("_fd", "_is_paused", "_on_chunk", "_poller", "is_drained", "taken")

    def __init__(self, fd: int, *, poller: Poller, on_chunk: Callable[[bytes], None]) -> None:
        """Start to read `fd`. `on_chunk` is called with the bytes of each read."""
        self._poller = poller
        self._fd = fd
        self._on_chunk = on_chunk
        self._is_paused = False
        self.taken = 0
        """Bytes that have been read."""
        self.is_drained = asyncio.Event()
        """Set at the end of the file, or when the pipe is closed."""
        poller.add_reader(fd, self._read)

    @property
    def unread(self) -> int:
        """Bytes in the pipe."""
        return count_unread(self._fd)

    def pause(self) -> None:
        """Stop reading. Calls may repeat."""
        if not self._is_paused:
            self._is_paused = True
            if self._fd >= 0:
                self._poller.remove_reader(self._fd)

    def resume(self) -> None:
        """Resume reading. Calls may repeat."""
        if self._is_paused:
            self._is_paused = False
            if self._fd >= 0:
                self._poller.add_reader(self._fd, self._read)

    def finish(self) -> None:
        """Read the rest, unless reading is paused, and close the pipe. Calls may repeat.

        For a pipe whose writers have ended: it holds at most 64 KiB.
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
        """Close the pipe and discard what it holds. Calls may repeat."""
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
