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

from scalesocket.io.outgoing import Outgoing
from scalesocket.io.poller import Poller

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


class PipeWriter:
    """The write end of a child's standard input.

    Keeps what the child has not taken yet, without a bound of its own: past HIGH_WATER its owner is told, and stops.
    The first write in a turn of the loop goes out at once, the others of that turn together in its end.
    """

    __slots__ = (
        "_fd",
        "_is_blocked",
        "_is_ending",
        "_is_scheduled",
        "_is_waiting",
        "_loop",
        "_on_blocked",
        "_on_unblocked",
        "_outgoing",
        "_poller",
        "_turn",
    )

    def __init__(self, fd: int, *, poller: Poller, on_blocked: Callable[[], None], on_unblocked: Callable[[], None]) -> None:
        """Write to `fd`. Past HIGH_WATER `on_blocked` is called; below LOW_WATER, or once the pipe is closed, `on_unblocked`."""
        self._loop = poller.loop
        self._fd = fd
        self._on_blocked = on_blocked
        self._on_unblocked = on_unblocked
        self._poller = poller
        self._turn = -1
        """The last turn in which something was written."""
        self._outgoing = Outgoing()
        self._is_scheduled = False
        self._is_waiting = False
        """The pipe is full and is watched."""
        self._is_blocked = False
        """The owner was told to stop."""
        self._is_ending = False

    @property
    def unsent(self) -> int:
        """Bytes the child has not taken; 0 once it takes no more."""
        return self._outgoing.size if self._fd >= 0 else 0

    def write(self, records: bytes) -> bool:
        """Queue input; False if it was discarded because the child has closed its end or `end` was called."""
        if self._fd < 0 or self._is_ending:
            return False
        outgoing = self._outgoing
        if not outgoing.size and self._turn != self._poller.turn:  # nearly always
            self._turn = self._poller.turn
            try:
                taken = os.write(self._fd, records)
            except BlockingIOError:
                taken = 0
            except OSError:  # EPIPE: the child has closed its standard input, or ended; its output still counts
                outgoing.append(records)  # which may be reclaimed
                self._shut()
                return True
            if taken == len(records):
                return True
            outgoing.append(memoryview(records)[taken:] if taken else records)
            self._wait()
        elif records:
            outgoing.append(records)
            if not self._is_waiting and not self._is_scheduled:
                self._is_scheduled = True
                self._loop.call_soon(self._flush)
        if outgoing.size > HIGH_WATER and not self._is_blocked:
            self._block()
        return True

    def end(self) -> None:
        """Close the pipe once everything queued was taken. Calls may repeat."""
        self._is_ending = True
        if not self.unsent:
            self.close()

    def close(self) -> None:
        """Close the pipe now; what is still queued is discarded. Calls may repeat."""
        self._outgoing.clear()
        self._shut()

    def reclaim(self) -> list[bytes]:
        """Take back what is queued, as it was written, but for a piece it has begun to take; also once it takes no more."""
        return self._outgoing.reclaim()

    def _shut(self) -> None:
        if self._fd < 0:
            return
        self._poller.remove_writer(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._unblock()

    def _block(self) -> None:
        if self._fd >= 0 and not self._is_waiting:
            self._send()
        if self.unsent > HIGH_WATER:
            self._is_blocked = True
            self._on_blocked()

    def _unblock(self) -> None:
        if self._is_blocked:
            self._is_blocked = False
            self._on_unblocked()

    def _wait(self) -> None:
        """Be called again when the pipe takes more."""
        if not self._is_waiting:
            self._is_waiting = True
            self._poller.add_writer(self._fd, self._send)

    def _flush(self) -> None:
        self._is_scheduled = False
        if self._fd >= 0 and not self._is_waiting:
            self._send()

    def _send(self) -> None:
        """Write what the pipe takes."""
        outgoing = self._outgoing
        try:
            outgoing.write(self._fd)
        except OSError:  # EPIPE
            self._shut()
            return
        if outgoing.size:
            self._wait()
        elif self._is_waiting:
            self._is_waiting = False
            self._poller.remove_writer(self._fd)
        if self._is_blocked and outgoing.size < LOW_WATER:
            self._unblock()
        if self._is_ending and not outgoing.size:
            self.close()


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
