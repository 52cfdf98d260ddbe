"""The standard streams of a server: always open, and written without blocking.

`open_missing_streams` is the first thing every command does. `unblock_output` is for commands that serve: it puts an
`Output` behind `sys.stdout` and `sys.stderr`, so that all that this process prints or logs goes through it. An Output starts
one daemon thread, when its reader stalls or when it writes to a file.
"""

import atexit
import io
import os
import select
import signal
import socket
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TextIO

MAX_UNWRITTEN: Final = 1024 * 1024
"""Bytes that wait for a reader; more lines are dropped and counted, until half of this is free again."""
MAX_CHUNK: Final = 64 * 1024
"""Bytes per write of the thread, unless a single line is longer."""
FLUSH_TIMEOUT: Final = 1.0
"""Seconds that the process waits at exit for the readers of its output."""
RETRY: Final = 0.005
"""Seconds between two writes to a descriptor that took nothing: a terminal may be reported writable and still take nothing."""
NULL_DEVICE: Final = os.makedev(1, 3)

Write = Callable[[bytes], int]
"""Writes without waiting and returns the number of bytes written. Raises BlockingIOError if that is none."""
DescribeLoss = Callable[[int, str], str]
"""Returns the line that reports dropped lines: their number and the cause."""

STALLED: Final = "while the log's reader stalled"


class Output:
    """A descriptor that is written without blocking. Any thread may write; the order of the writes is kept.

    A write goes to the descriptor at once if possible, so that the last lines before a crash are not lost. The rest is queued
    for a thread, up to MAX_UNWRITTEN bytes. Lines whose write fails (no reader, full disk, closed terminal) are dropped.
    """

    def __init__(self, fd: int, describe_loss: DescribeLoss) -> None:
        """Write to `fd`, which stays blocking: other processes may share its open file description."""
        self._fd = fd
        self._describe_loss = describe_loss
        self._write_now, self._poll_fd = _open_nonblocking(fd)
        self._lock = threading.RLock()  # reentrant: a finalizer may log while it is held
        self._changed = threading.Condition(self._lock)
        self._queue: deque[bytes] = deque()
        self._unwritten = 0
        """Bytes in the queue and those that the thread is writing."""
        self._is_full = False
        self._dropped = 0
        self._cause = ""
        self._thread: threading.Thread | None = None

    def write(self, data: bytes) -> None:
        """Write or queue `data`, usually whole lines; drop it if the queue is full. Never blocks, never raises."""
        with self._lock:
            if self._is_full or (self._unwritten and self._unwritten + len(data) > MAX_UNWRITTEN):
                self._is_full = True
                self._count_dropped(data, STALLED)
            elif self._unwritten or self._write_now is None:
                self._enqueue(data)
            else:
                self._write_or_enqueue(self._write_now, data)

    def wait_written(self, deadline: float) -> None:
        """Wait until all is written, but not beyond `deadline`, a time of `time.monotonic`."""
        with self._lock:
            while self._unwritten and (time_left := deadline - time.monotonic()) > 0:
                self._changed.wait(time_left)

    def _write_or_enqueue(self, write_now: Write, data: bytes) -> None:
        try:
            written = write_now(data)
        except BlockingIOError:
            written = 0
        except OSError as error:
            self._count_dropped(data, _describe(error))
            return
        if written < len(data):
            self._enqueue(data[written:])
        elif self._dropped:
            self.write(self._take_report())

    def _enqueue(self, data: bytes) -> None:
        self._queue.append(data)
        self._unwritten += len(data)
        if self._thread is None:
            self._start_thread()
        self._changed.notify_all()

    def _start_thread(self) -> None:
        """Start the thread with all signals blocked: the main thread receives them."""
        thread = threading.Thread(target=self._run, name=f"output {self._fd}", daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down, or the limit of threads is reached
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._thread = thread

    def _count_dropped(self, data: bytes, cause: str) -> None:
        self._dropped += data.count(b"\n") or 1
        self._cause = cause

    def _take_report(self) -> bytes:
        """Return the line about dropped lines, and reset their count."""
        line = self._describe_loss(self._dropped, self._cause)
        self._dropped = 0
        return line.encode(errors="replace") + b"\n"

    def _run(self) -> None:
        """Write the queue, for ever. In a daemon thread: a blocked write must not keep the process from exiting."""
        while True:
            with self._lock:
                while not self._queue:
                    self._changed.wait()
                chunk = self._next_chunk()
            error = self._write_all(chunk)
            with self._lock:
                self._unwritten -= len(chunk)
                if error is not None:
                    self._count_dropped(chunk, _describe(error))
                if self._unwritten <= MAX_UNWRITTEN // 2:
                    self._is_full = False
                    if self._dropped and error is None:  # after the lines that were queued before the loss
                        self._enqueue(self._take_report())
                self._changed.notify_all()

    def _next_chunk(self) -> bytes:
        """Remove the first writes from the queue and join them."""
        chunk = bytearray(self._queue.popleft())
        while self._queue and len(chunk) + len(self._queue[0]) <= MAX_CHUNK:
            chunk += self._queue.popleft()
        return bytes(chunk)

    def _write_all(self, chunk: bytes) -> OSError | None:
        """Write `chunk`, and wait as long as that takes; return the error that ended it."""
        try:
            while chunk:
                try:
                    chunk = chunk[self._write_now(chunk) if self._write_now is not None else os.write(self._fd, chunk) :]
                except BlockingIOError:
                    time.sleep(RETRY)
                    poll = select.poll()
                    poll.register(self._poll_fd, select.POLLOUT)
                    poll.poll()
        except OSError as error:
            return error
        return None


class _Raw(io.RawIOBase):
    """An Output as a raw Python file."""

    def __init__(self, fd: int, output: Output) -> None:
        self._fd = fd
        self._output = output

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # a TextIOWrapper writes bytes
        self._output.write(bytes(data))
        return len(data)

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)


def open_missing_streams() -> None:
    """Open closed standard streams on the null device.

    Otherwise the next file or socket would get the number of a standard stream, and prints would be written to it.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:  # Python sets it to None if the descriptor was closed at its start
            stream = open(fd, "w" if fd else "r", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def unblock_output(describe_loss: DescribeLoss) -> None:
    """Make writes to standard output and standard error non-blocking; at exit, wait up to FLUSH_TIMEOUT for their readers.

    If both lead to the same file, they share a queue, which keeps the order of their lines. Replaced streams (those of a test,
    for example) are left alone.
    """
    outputs: dict[tuple[int, int, int], Output] = {}
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue
        fd = stream.fileno()
        found = os.fstat(fd)
        key = (found.st_dev, found.st_ino, found.st_rdev)
        if key not in outputs:
            outputs[key] = Output(fd, describe_loss)
        raw = _Raw(fd, outputs[key])
        setattr(sys, name, io.TextIOWrapper(raw, encoding=stream.encoding, errors=stream.errors, line_buffering=True))
    atexit.register(_flush, tuple(outputs.values()))


def _flush(outputs: tuple[Output, ...]) -> None:
    deadline = time.monotonic() + FLUSH_TIMEOUT
    for output in outputs:
        output.wait_written(deadline)


def _open_nonblocking(fd: int) -> tuple[Write | None, int]:
    """Return a function that writes to `fd` without blocking, or None if there is no way, and the descriptor to poll.

    O_NONBLOCK belongs to the open file description, which other processes may share; so a pipe or a terminal is opened a second
    time. There is no way for a file on a disk, nor for a pipe or terminal of another user, which cannot be opened.
    """
    found = os.fstat(fd)
    if stat.S_ISSOCK(found.st_mode):
        connection = socket.socket(fileno=os.dup(fd))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT), connection.fileno()
    if found.st_rdev == NULL_DEVICE:
        return partial(os.write, fd), fd
    if not stat.S_ISFIFO(found.st_mode) and not os.isatty(fd):
        return None, fd
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None, fd
    return partial(os.write, own), own


def _describe(error: OSError) -> str:
    return f"because the log could not be written ({error.strerror or error})"
