"""Standard streams that never block: lines without a reader are queued, or dropped and counted."""

import fcntl
import os
import re
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from scalesocket import streams
from scalesocket.streams import MAX_UNWRITTEN, Output
from tests.attacks.stalled_log import attack

DEADLINE: Final = 20.0
LINES: Final = 30_000
"""More lines than the queue of a stalled reader holds."""
Ends = tuple[int, int]
"""The reading and the writing end."""


def describe(lines: int, cause: str) -> str:
    return f"{lines} lines dropped {cause}"


def pipe() -> Ends:
    return os.pipe()


def stream_socket() -> Ends:
    ours, its = socket.socketpair()
    return ours.detach(), its.detach()


def terminal() -> Ends:
    ours, its = os.openpty()
    tty.setraw(its)
    return ours, its


def pipe_of_another_user() -> Ends:
    """A pipe that cannot be opened a second time: only a thread can write to it."""
    return os.pipe()


@pytest.fixture(params=[pipe, stream_socket, terminal, pipe_of_another_user], ids=lambda make: make.__name__)
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    make: Callable[[], Ends] = request.param
    ours, its = make()
    if make is pipe_of_another_user:
        monkeypatch.setattr(streams, "_open_nonblocking", lambda fd: (None, fd))
    yield ours, its
    os.close(its)  # the thread of an Output that is still writing sees that its reader is gone
    os.close(ours)


def read_until(fd: int, last: bytes) -> list[bytes]:
    """Read lines up to the one that contains `last`."""
    text = b""
    deadline = time.monotonic() + DEADLINE
    while last not in text or not text.endswith(b"\n"):
        assert time.monotonic() < deadline, text[-500:]
        text += os.read(fd, 1 << 16)
    return text.splitlines()


def test_a_stalled_reader_blocks_no_writer_and_receives_the_number_of_dropped_lines(ends: Ends) -> None:
    ours, its = ends
    output = Output(its, describe)

    begun = time.monotonic()
    longest = 0.0
    for number in range(LINES):
        before = time.monotonic()
        output.write(b"%d %s\n" % (number, b"x" * 80))
        longest = max(longest, time.monotonic() - before)
    taken = time.monotonic() - begun
    lines = read_until(ours, b"dropped while the log's reader stalled")
    output.write(b"again\n")
    again = read_until(ours, b"again")

    assert longest < 1.0, taken
    assert not fcntl.fcntl(its, fcntl.F_GETFL) & os.O_NONBLOCK  # others may share the open file description
    kept = [int(line.split()[0]) for line in lines[:-1]]
    assert kept == list(range(len(kept)))
    assert lines[-1] == b"%d lines dropped while the log's reader stalled" % (LINES - len(kept))
    assert len(kept) * 80 > MAX_UNWRITTEN // 2
    assert again == [b"again"]


def test_lines_keep_their_order_with_a_slow_reader(ends: Ends) -> None:
    ours, its = ends
    output = Output(its, describe)

    def write() -> None:
        for number in range(5_000):
            output.write(b"%d %s\n" % (number, b"x" * (number % 300)))
            if number % 1000 == 0:
                time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    lines = read_until(ours, b"4999 ")
    writer.join()

    assert [int(line.split()[0]) for line in lines] == list(range(5_000))


def test_without_a_reader_only_lines_are_lost(ends: Ends) -> None:
    ours, its = ends
    output = Output(its, describe)
    silent = os.open(os.devnull, os.O_RDONLY)
    for _ in range(LINES):
        output.write(b"x" * 80 + b"\n")

    os.dup2(silent, ours)
    os.close(silent)
    for _ in range(LINES):
        output.write(b"x" * 80 + b"\n")
    output.wait_written(time.monotonic() + DEADLINE)

    assert output._unwritten == 0


def run(program: str, **options: object) -> "subprocess.Popen[bytes]":
    prelude = "import os, sys, time\nfrom scalesocket.streams import unblock_output\n"
    prelude += "unblock_output(lambda lines, cause: f'{lines} lines dropped {cause}')\n"
    return subprocess.Popen([sys.executable, "-c", prelude + program], **options)  # type: ignore[call-overload,no-any-return]


def test_lines_dropped_by_a_full_disk_are_reported_when_there_is_room(tmp_path: Path) -> None:
    program = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
print("first" + "." * 94)
sys.stdout.buffer._output.wait_written(time.monotonic() + 10.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for _ in range(7):
    print("lost")
sys.stdout.buffer._output.wait_written(time.monotonic() + 10.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("last")
"""
    with (tmp_path / "log").open("wb") as log, run(program, stdout=log) as process:
        assert process.wait(DEADLINE) == 0

    first, last, report = (tmp_path / "log").read_text().splitlines()
    assert first.startswith("first")
    assert last == "last"
    assert report == "7 lines dropped because the log could not be written (File too large)"


def test_the_last_lines_before_a_crash_are_written() -> None:
    program = "print('x' * 100_000)\nprint('y' * 100_000, file=sys.stderr)\nraise ValueError('it broke')"

    with run(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        time.sleep(0.2)  # the reader is late
        text = process.stdout.read()

    assert re.fullmatch(rb"x{100000}\ny{100000}\nTraceback.*\nValueError: it broke\n", text, re.DOTALL)
    assert process.returncode == 1


def test_a_line_is_written_before_a_signal_kills_the_process() -> None:
    with run("print('the end', file=sys.stderr); os.abort()", stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.read() == b"the end\n"


def test_a_reader_that_never_reads_does_not_delay_the_exit() -> None:
    reader, unread = os.pipe()
    begun = time.monotonic()

    with run("print('x' * 1_000_000)\nprint('x', file=sys.stderr)", stdout=unread, stderr=unread) as process:
        code = process.wait(DEADLINE)

    os.close(reader)
    os.close(unread)
    assert code == 0
    assert time.monotonic() - begun < 10.0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_log_that_nobody_reads_delays_no_client(tmp_path: Path) -> None:
    figures = await attack(tmp_path, 1.0)

    assert figures.echo is not None
    assert figures.echo < 1.0
    assert figures.handshake is not None
    assert figures.handshake < 1.0
    assert figures.health is not None
    assert figures.health < 1.0
    assert figures.end is not None
    assert figures.code == 0
    assert figures.echoes > 20
