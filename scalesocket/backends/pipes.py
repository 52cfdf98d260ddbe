"""Our ends of a child's pipes, read and written from the event loop's callbacks.

Plain `os.read` when `Readers` calls, instead of the loop's pipe transports: to open the three pipes of a room costs
less than half as much, and closing never waits for input that nobody takes.
"""

import asyncio
import fcntl
import os
import sys
import termios
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from scalesocket.backends.backend import Receiver
from scalesocket.backends.readers import Readers

HIGH_WATER: Final = 256 * 1024
"""Bytes of unsent input above which the room is told to give no more."""
LOW_WATER: Final = 64 * 1024
"""Bytes of unsent input below which the room may go on."""
READ_SIZE: Final = 64 * 1024
"""Bytes of one read: what a pipe holds. Larger pipes would run into `pipe-user-pages-soft` (64 MiB for all of a user's)."""
MAX_LEFTOVER: Final = 1024 * 1024
"""Bytes read at most when everyone who could write is gone."""
MAX_VECTOR: Final = 64
"""Pieces given to one writev."""


def count_unread(fd: int) -> int:
    """Bytes that wait to be read from a pipe or a socket; 0 for one that is closed."""
    count = bytearray(4)
    try:
        fcntl.ioctl(fd, termios.FIONREAD, count)
    except (OSError, ValueError):
        return 0
    return int.from_bytes(count, sys.byteorder)


class InputPipe:
    """The write end of a child's standard input.

    Keeps what the child has not taken yet, without a bound of its own: past HIGH_WATER the receiver is told, and stops.
    What is written in one turn of the loop goes out in one system call.
    """

    __slots__ = (
        "_chunks",
        "_fd",
        "_is_blocked",
        "_is_ending",
        "_is_scheduled",
        "_is_waiting",
        "_loop",
        "_receiver",
        "unsent",
    )

    def __init__(self, fd: int, receiver: Receiver) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._receiver = receiver
        self._chunks: deque[bytes | memoryview] = deque()
        self.unsent = 0
        """Bytes the child has not taken."""
        self._is_scheduled = False
        self._is_waiting = False
        """The pipe is full and the loop watches it."""
        self._is_blocked = False
        """The receiver was told to stop."""
        self._is_ending = False

    def write(self, records: bytes) -> bool:
        """Queue input; False if it was discarded because the child has closed its end or `end` was called."""
        if self._fd < 0 or self._is_ending:
            return False
        if records:
            self._chunks.append(records)
            self.unsent += len(records)
            if not self._is_waiting and not self._is_scheduled:
                # Not at once, even when nothing else is to come: a writer that sleeps right after is what the kernel
                # expects of a pipe, and the reader is then woken on the same processor (24 us for an echo, not 78 us).
                self._is_scheduled = True
                self._loop.call_soon(self._flush)
            if self.unsent > HIGH_WATER and not self._is_blocked:
                self._block()
        return True

    def end(self) -> None:
        """Close the pipe once everything queued was taken. Calls may repeat."""
        self._is_ending = True
        if not self.unsent:
            self.close()

    def close(self) -> None:
        """Close the pipe now; what is still queued is discarded. Calls may repeat."""
        self._chunks.clear()
        self._shut()

    def reclaim(self) -> list[bytes]:
        """Take back what is queued, as it was written, but for a piece it has begun to take; also once it takes no more."""
        left = [chunk for chunk in self._chunks if not isinstance(chunk, memoryview)]
        self._chunks.clear()
        self.unsent = 0
        return left

    def _shut(self) -> None:
        if self._fd < 0:
            return
        if self._is_waiting:
            self._loop.remove_writer(self._fd)
        os.close(self._fd)
        self._fd = -1
        self.unsent = 0
        self._unblock()

    def _block(self) -> None:
        if not self._is_waiting:
            self._send()
        if self.unsent > HIGH_WATER:
            self._is_blocked = True
            self._receiver.backend_blocked()

    def _unblock(self) -> None:
        if self._is_blocked:
            self._is_blocked = False
            self._receiver.backend_unblocked()

    def _flush(self) -> None:
        self._is_scheduled = False
        if self._fd >= 0 and not self._is_waiting:
            self._send()

    def _send(self) -> None:
        """Write what the pipe takes, and have the loop call again when it takes more."""
        chunks = self._chunks
        while chunks:
            try:
                if len(chunks) == 1:
                    taken = os.write(self._fd, chunks[0])
                else:
                    taken = os.writev(self._fd, list(islice(chunks, MAX_VECTOR)))
            except BlockingIOError:
                break
            except OSError:  # EPIPE: the child has closed its standard input, or ended; its output still counts
                self._shut()
                return
            if taken == self.unsent:
                self.unsent = 0
                chunks.clear()
            else:
                self._take(taken)
        if chunks and not self._is_waiting:
            self._is_waiting = True
            self._loop.add_writer(self._fd, self._send)
        elif not chunks and self._is_waiting:
            self._is_waiting = False
            self._loop.remove_writer(self._fd)
        if self._is_blocked and self.unsent < LOW_WATER:
            self._unblock()
        if self._is_ending and not chunks:
            self.close()

    def _take(self, count: int) -> None:
        """Drop `count` bytes from the front of the queue."""
        chunks = self._chunks
        self.unsent -= count
        while count:
            size = len(chunks[0])
            if count < size:
                chunks[0] = memoryview(chunks[0])[count:]
                return
            chunks.popleft()
            count -= size


class OutputPipe:
    """The read end of a child's standard output or error."""

    __slots__ = ("_fd", "_is_paused", "_on_chunk", "_readers", "is_drained", "taken")

    def __init__(self, fd: int, on_chunk: Callable[[bytes], None], readers: Readers) -> None:
        """Read from now on, when `readers` calls: `on_chunk` is called with each chunk."""
        self._readers = readers
        self._fd = fd
        self._on_chunk = on_chunk
        self._is_paused = False
        self.taken = 0
        """Bytes that were read."""
        self.is_drained = asyncio.Event()
        """Set at the end of file, and when the pipe is closed."""
        readers.add(fd, self._read)

    @property
    def unread(self) -> int:
        """Bytes that are in the pipe."""
        return count_unread(self._fd)

    def pause(self) -> None:
        """Stop reading. Calls may repeat."""
        if not self._is_paused:
            self._is_paused = True
            if self._fd >= 0:
                self._readers.remove(self._fd)

    def resume(self) -> None:
        """Read again. Calls may repeat."""
        if self._is_paused:
            self._is_paused = False
            if self._fd >= 0:
                self._readers.add(self._fd, self._read)

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
            self._readers.remove(self._fd)
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
