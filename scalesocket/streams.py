"""The standard streams of a server: always open, and written without waiting for their readers.

`open_missing_streams` is the first thing every command does. `unblock_output` is for commands that serve: it puts an
`Output` behind `sys.stdout` and `sys.stderr`, so that whatever this process prints or logs goes through one. An Output starts
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
"""Bytes that wait for a reader; lines beyond that are dropped and counted. Lines are taken again when half of it is free."""
MAX_CHUNK: Final = 64 * 1024
"""Bytes of one write of the thread, unless a single line is longer."""
FLUSH_TIMEOUT: Final = 1.0
"""Seconds the process waits at its exit for readers of its output."""
RETRY: Final = 0.005
"""Seconds between two writes to a descriptor that took nothing: a terminal may be reported writable and still refuse."""
NULL_DEVICE: Final = os.makedev(1, 3)

Write = Callable[[bytes], int]
"""Writes at once what the descriptor takes and returns how much that was. Raises BlockingIOError if it takes nothing."""
DescribeLoss = Callable[[int, str], str]
"""Makes the line that reports a number of dropped lines and why they were dropped."""

STALLED: Final = "while the log's reader stalled"


class Output:
    """A descriptor that is written without waiting. Any thread may write; the order of the writes is kept.

    What the descriptor takes is written at once, so that the last lines before a crash are seen. The rest is queued for a
    thread, up to MAX_UNWRITTEN bytes. Writes that fail (no reader, a full disk, a terminal that is gone) are dropped.
    """

    def __init__(self, fd: int, describe_loss: DescribeLoss) -> None:
        """Write to `fd`, which stays blocking: others may share its open file description."""
        self._fd = fd
        self._describe_loss = describe_loss
        self._write_now, self._poll_fd = _open_nonblocking(fd)
        self._lock = threading.RLock()  # reentrant: a finalizer may log while it is held
        self._changed = threading.Condition(self._lock)
        self._queue: deque[bytes] = deque()
        self._unwritten = 0
        """Bytes in the queue, and those the thread is writing."""
        self._is_full = False
        self._lost = 0
        self._cause = ""
        self._thread: threading.Thread | None = None

    def write(self, data: bytes) -> None:
        """Write `data`, whole lines as a rule, or queue it; drop it if the queue is full. Never waits, never fails."""
        with self._lock:
            if self._is_full or (self._unwritten and self._unwritten + len(data) > MAX_UNWRITTEN):
                self._is_full = True
                self._lose(data, STALLED)
            elif self._unwritten or self._write_now is None:
                self._enqueue(data)
            else:
                self._write_or_enqueue(self._write_now, data)

    def wait_written(self, deadline: float) -> None:
        """Wait until everything is written, but not beyond `deadline`, a time of `time.monotonic`."""
        with self._lock:
            while self._unwritten and (time_left := deadline - time.monotonic()) > 0:
                self._changed.wait(time_left)

    def _write_or_enqueue(self, write_now: Write, data: bytes) -> None:
        try:
            written = write_now(data)
        except BlockingIOError:
            written = 0
        except OSError as error:
            self._lose(data, _describe(error))
            return
        if written < len(data):
            self._enqueue(data[written:])
        elif self._lost:
            self.write(self._take_report())

    def _enqueue(self, data: bytes) -> None:
        self._queue.append(data)
        self._unwritten += len(data)
        if self._thread is None:
            self._start_thread()
        self._changed.notify_all()

    def _start_thread(self) -> None:
        """Start the thread, with all signals blocked: they are for the main thread."""
        thread = threading.Thread(target=self._run, name=f"output {self._fd}", daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down, or there may be no more threads
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._thread = thread

    def _lose(self, data: bytes, cause: str) -> None:
        self._lost += data.count(b"\n") or 1
        self._cause = cause

    def _take_report(self) -> bytes:
        """The line about lost lines; they count as reported."""
        line = self._describe_loss(self._lost, self._cause)
        self._lost = 0
        return line.encode(errors="replace") + b"\n"

    def _run(self) -> None:
        """Write what is queued, for ever. In a daemon thread: one that is blocked in a write does not keep the process."""
        while True:
            with self._lock:
                while not self._queue:
                    self._changed.wait()
                chunk = self._next_chunk()
            error = self._write_all(chunk)
            with self._lock:
                self._unwritten -= len(chunk)
                if error is not None:
                    self._lose(chunk, _describe(error))
                if self._unwritten <= MAX_UNWRITTEN // 2:
                    self._is_full = False
                    if self._lost and error is None:  # behind what was queued before the loss
                        self._enqueue(self._take_report())
                self._changed.notify_all()

    def _next_chunk(self) -> bytes:
        """Take the first writes off the queue."""
        chunk = bytearray(self._queue.popleft())
        while self._queue and len(chunk) + len(self._queue[0]) <= MAX_CHUNK:
            chunk += self._queue.popleft()
        return bytes(chunk)

    def _write_all(self, chunk: bytes) -> OSError | None:
        """Write `chunk` however long that takes; return the error that ended it."""
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
    """An Output as a file of Python's."""

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
    """Open standard streams that are closed on the null device.

    Otherwise the next file or socket would get the number of one, and what is printed would go there.
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
        if getattr(sys, name) is None:  # as Python leaves it when the descriptor was closed at its start
            stream = open(fd, "w" if fd else "r", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def unblock_output(describe_loss: DescribeLoss) -> None:
    """Let nothing that this process prints wait for its reader, from now on; at its exit readers get FLUSH_TIMEOUT.

    If both streams lead to the same place, they share a queue, which keeps their order. Streams that somebody has replaced
    are left alone.
    """
    outputs: dict[tuple[int, int, int], Output] = {}
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue
        fd = stream.fileno()
        place = os.fstat(fd)
        key = (place.st_dev, place.st_ino, place.st_rdev)
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
    """How to write to what `fd` leads to without waiting, and the descriptor to poll; None where that is not possible.

    O_NONBLOCK belongs to the open file description, which other processes may share: a pipe or a terminal is opened once
    more. A file on a disk cannot be written without waiting. Nor can what belongs to another user: it cannot be opened.
    """
    place = os.fstat(fd)
    if stat.S_ISSOCK(place.st_mode):
        connection = socket.socket(fileno=os.dup(fd))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT), connection.fileno()
    if place.st_rdev == NULL_DEVICE:
        return partial(os.write, fd), fd
    if not stat.S_ISFIFO(place.st_mode) and not os.isatty(fd):
        return None, fd
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None, fd
    return partial(os.write, own), own


def _describe(error: OSError) -> str:
    return f"because the log could not be written ({error.strerror or error})"
