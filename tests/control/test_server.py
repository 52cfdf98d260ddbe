"""The control socket: found by both ends, private to its user, never that of another server."""

import asyncio
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import msgspec
import pytest
from anyio import to_thread

from scalesocket.config.model import Server, Site
from scalesocket.config.plan import make_plan
from scalesocket.control.address import ControlError, control_paths
from scalesocket.control.binding import LOCK_TIMEOUT, bind_control
from scalesocket.control.client import open_stream, send_request
from scalesocket.control.messages import Answer, Caller, Diff, Reload, ReloadReport, Request, Status, Stop, Tail
from scalesocket.control.server import MAX_CONNECTIONS, open_control
from tests.backends.recording import open_file_limit
from tests.conftest import capture_all_logs
from tests.playing import until

pytestmark = pytest.mark.anyio

REPORT: Final = ReloadReport(is_applied=False, generation=7)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def respond(request: Request, caller: Caller) -> Answer:
    """Answer with the request."""
    match request:
        case Reload(restart="broken"):
            raise ValueError("no")
        case Diff():
            return Answer(error="site.toml:1:1: wrong", is_site_wrong=True)
        case Reload(dry_run=True):
            return Answer(result=msgspec.Raw(msgspec.json.encode(REPORT)))
        case _:
            return Answer(error=repr(request))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_request_that_waits_leaves_the_socket_to_others_and_ends_with_its_client(tmp_path: Path) -> None:
    waiting: set[int] = set()

    async def respond_late(request: Request, caller: Caller) -> Answer:
        if not isinstance(request, Stop):
            return await respond(request, caller)
        waiting.add(number := len(waiting))
        try:
            await anyio.sleep(60)
        finally:
            waiting.discard(number)
        return Answer()

    path = tmp_path / "control.sock"
    async with open_control([path], respond_late):
        line = msgspec.json.encode(Stop(app="chat", room="lobby", wait=30.0)) + b"\n"
        clients = [socket.socket(socket.AF_UNIX) for _ in range(MAX_CONNECTIONS + 1)]
        for client in clients:
            client.connect(str(path))
            client.sendall(line)
        await until(lambda: len(waiting) == len(clients))

        answer = await to_thread.run_sync(send_request, [path], Reload(dry_run=True), ReloadReport)
        for client in clients:
            client.close()

        await until(lambda: not waiting)
        assert answer == REPORT


async def test_a_request_is_answered(tmp_path: Path) -> None:
    paths = [tmp_path / "control.sock"]

    async with open_control(paths, respond):
        answer = await to_thread.run_sync(send_request, paths, Reload(dry_run=True), ReloadReport)

    assert answer == REPORT


async def test_a_prepared_socket_accepts_nothing_before_the_commit(tmp_path: Path) -> None:
    old, new = (
        Site(path=tmp_path / "site.toml", server=Server(control=str(tmp_path / name)), apps={}) for name in ("old", "new")
    )

    async with open_control([tmp_path / "old"], respond) as control:
        move = await control.prepare(new, make_plan(old, new))
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(tmp_path / "new"))
        with pytest.raises(
            ControlError, match="another process holds a lock"
        ):  # another server does not take it for a stale one either
            await to_thread.run_sync(bind_control, [tmp_path / "new"])
        move.commit()

        answer = await to_thread.run_sync(send_request, [tmp_path / "new"], Reload(dry_run=True), ReloadReport)

    assert answer == REPORT


async def test_a_failed_bind_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("injected")

    monkeypatch.setattr(Path, "symlink_to", fail)

    with pytest.raises(ControlError, match="injected"):
        bind_control([tmp_path / "one", tmp_path / "two"])

    assert names_in(tmp_path) == []


def test_without_a_free_descriptor_a_socket_is_not_opened_and_its_lock_is_released(tmp_path: Path) -> None:
    lowest = os.dup(0)
    os.close(lowest)
    for free in (0, 1):
        with open_file_limit(lowest + free), pytest.raises(ControlError, match=r"cannot be opened \(Too many open files\)"):
            bind_control([tmp_path / "control"])

    binding = bind_control([tmp_path / "control"])

    assert binding is not None
    binding.listen()
    binding.close()


async def test_the_socket_is_private_and_removed_with_its_server(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async with open_control([path], respond):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    assert not path.exists()


async def test_an_error_answer_is_raised_in_the_client(tmp_path: Path) -> None:
    paths = [tmp_path / "control.sock"]

    async with open_control(paths, respond):
        with pytest.raises(ControlError, match="Status"):
            await to_thread.run_sync(send_request, paths, Status(), ReloadReport)
        with pytest.raises(ControlError, match="internal error of the server"):
            await to_thread.run_sync(send_request, paths, Reload(restart="broken"), ReloadReport)


@pytest.mark.parametrize(
    "line", [b"\n", b"{}\n", b'{"command":"explode"}\n', b'{"command":"reload","x":1}\n', b"[" * 100_000, b"half"]
)
async def test_an_invalid_request_is_answered_with_an_error(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "control.sock"

    async with open_control([path], respond):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line)
        writer.write_eof()
        with anyio.fail_after(5):
            answer = await reader.read()
        writer.close()

        assert answer.startswith((b'{"error":"not a request', b'{"error":"the request is longer'))


class Ticks:
    """A stream that goes on until its reader has gone."""

    answer = Answer(result=msgspec.Raw(b'{"rooms":1,"clients":0}'))

    def __init__(self, ends: bool = False) -> None:
        self.ends = ends
        self.is_closed = anyio.Event()

    async def read(self) -> bytes | None:
        if self.ends:
            return None
        await anyio.sleep(0.01)
        return b"tick\n"

    def close(self) -> None:
        self.is_closed.set()


async def test_a_stream_goes_on_until_the_client_closes_it_and_takes_no_slot(tmp_path: Path) -> None:
    path, streams = tmp_path / "control.sock", list[Ticks]()

    async def respond_with_stream(request: Request, caller: Caller) -> Answer | Ticks:
        if isinstance(request, Status):
            return await respond(Reload(dry_run=True), caller)
        streams.append(Ticks())
        return streams[-1]

    def read_two_lines() -> list[bytes]:
        with open_stream([path], Tail(app="a", room="b")) as (_, lines):
            return [next(lines), next(lines)]

    async with open_control([path], respond_with_stream):
        many = [await asyncio.open_unix_connection(path) for _ in range(MAX_CONNECTIONS + 1)]
        for reader, writer in many:
            writer.write(msgspec.json.encode(Tail(app="a", room="b")) + b"\n")
            with anyio.fail_after(5):
                assert b'"rooms":1' in await reader.readline()
        assert await to_thread.run_sync(send_request, [path], Status(), ReloadReport) == REPORT
        assert await to_thread.run_sync(read_two_lines) == [b"tick\n", b"tick\n"]
        for _, writer in many:
            writer.close()
        with anyio.fail_after(5):
            for stream in streams:
                await stream.is_closed.wait()


async def test_a_stream_that_ends_closes_the_connection(tmp_path: Path) -> None:
    path, stream = tmp_path / "control.sock", Ticks(ends=True)

    async def respond_with_stream(request: Request, caller: Caller) -> Ticks:
        return stream

    def read_all() -> list[bytes]:
        with open_stream([path], Tail(app="a", room="b")) as (_, lines):
            return list(lines)

    async with open_control([path], respond_with_stream):
        assert await to_thread.run_sync(read_all) == []

    assert stream.is_closed.is_set()


async def test_a_bug_in_a_stream_does_not_end_the_server(tmp_path: Path) -> None:
    class Broken(Ticks):
        async def read(self) -> bytes | None:
            raise ZeroDivisionError

    path, stream = tmp_path / "control.sock", Broken()

    async def respond_with_stream(request: Request, caller: Caller) -> Answer | Broken:
        return stream if isinstance(request, Tail) else await respond(Reload(dry_run=True), caller)

    def read_all() -> list[bytes]:
        with open_stream([path], Tail(app="a", room="b")) as (_, lines):
            return list(lines)

    async with open_control([path], respond_with_stream):
        assert await to_thread.run_sync(read_all) == []
        assert await to_thread.run_sync(send_request, [path], Status(), ReloadReport) == REPORT

    assert stream.is_closed.is_set()


async def test_a_stream_to_a_client_that_has_left_ends_without_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client leaves at the moment at which there is something to send."""
    path, writers = tmp_path / "control.sock", list[asyncio.StreamWriter]()
    open_unix_connection = asyncio.open_unix_connection

    async def remember(*, sock: socket.socket, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await open_unix_connection(sock=sock, limit=limit)
        writers.append(writer)
        return reader, writer

    def write_to_closed(data: bytes) -> None:
        raise RuntimeError("the handler is closed")  # as uvloop does

    class Late(Ticks):
        async def read(self) -> bytes | None:
            writers[0].transport.abort()
            monkeypatch.setattr(writers[0], "write", write_to_closed)
            return b"tick\n"

    stream = Late()

    async def respond_with_stream(request: Request, caller: Caller) -> Late:
        return stream

    def read_all() -> list[bytes]:
        with open_stream([path], Tail(app="a", room="b")) as (_, lines):
            return list(lines)

    with capture_all_logs() as events:
        async with open_control([path], respond_with_stream):
            monkeypatch.setattr(asyncio, "open_unix_connection", remember)
            assert await to_thread.run_sync(read_all) == []
            with anyio.fail_after(5):
                await stream.is_closed.wait()

    assert [event for event in events if event["log_level"] != "debug"] == []


async def test_the_caller_is_the_process_at_the_other_end(tmp_path: Path) -> None:
    callers = []

    async def respond_to(request: Request, caller: Caller) -> Answer:
        callers.append(str(caller))
        return await respond(Reload(dry_run=True), caller)

    async with open_control([tmp_path / "control.sock"], respond_to):
        await to_thread.run_sync(send_request, [tmp_path / "control.sock"], Status(), ReloadReport)

    assert callers == [f"control socket, uid {os.getuid()}, pid {os.getpid()}"]


async def test_an_answer_that_is_too_long_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalesocket.control.server.MAX_LINE", 20)

    async with open_control([tmp_path / "control.sock"], respond):
        with pytest.raises(ControlError, match="too long"):
            await to_thread.run_sync(send_request, [tmp_path / "control.sock"], Reload(dry_run=True), ReloadReport)


async def test_idle_connections_do_not_keep_the_server_from_stopping(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async with open_control([path], respond):
        idle = [socket.socket(socket.AF_UNIX) for _ in range(MAX_CONNECTIONS - 1)]
        for sock in idle:
            sock.connect(str(path))
        await to_thread.run_sync(send_request, [path], Reload(dry_run=True), ReloadReport)  # accepted after the idle ones
        stopped_at = anyio.current_time()

    assert anyio.current_time() - stopped_at < 5
    for sock in idle:
        sock.settimeout(2)
        assert sock.recv(100) == b""
        sock.close()


async def test_the_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async with open_control([path], respond):
        assert await to_thread.run_sync(send_request, [path], Reload(dry_run=True), ReloadReport) == REPORT


async def test_the_socket_of_a_live_server_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async with open_control([path], respond):
        with pytest.raises(ControlError, match=f"in use by another server, process {os.getpid()} "):
            async with open_control([path], respond):
                pass
        await to_thread.run_sync(send_request, [path], Reload(dry_run=True), ReloadReport)


async def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")

    with pytest.raises(ControlError, match="not a socket"):
        async with open_control([path], respond):
            pass

    assert path.read_text() == "mine"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@pytest.mark.timeout(10)
async def test_a_lock_of_another_process_is_not_waited_for(tmp_path: Path) -> None:
    """With the folder locked, no socket is opened there, and an open one can be closed."""
    with locked(tmp_path):
        with pytest.raises(ControlError, match="another process holds a lock"):
            async with open_control([tmp_path / "control.sock"], respond):
                pass
        async with open_control([tmp_path / "control.sock"], respond, is_needed=False):
            assert names_in(tmp_path) == []

    async with open_control([tmp_path / "control.sock"], respond) as control:
        with locked(tmp_path):
            control.close()

    async with open_control([tmp_path / "control.sock"], respond):
        pass
    assert names_in(tmp_path) == []


async def test_a_path_the_system_refuses_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 200), tmp_path / "missing" / "deeper" / "control.sock"):
        with pytest.raises(ControlError):
            async with open_control([path], respond):
                pass


async def test_a_missing_server_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no server runs this site"):
        send_request([tmp_path / "control.sock"], Status(), ReloadReport)


async def test_a_server_with_a_full_queue_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as waiting:
        listener.bind(str(path))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                client = waiting.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))

        with pytest.raises(ControlError, match="too many commands wait for the server"):
            send_request([path], Status(), ReloadReport)


async def test_a_folder_that_others_may_enter_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "scalesocket").mkdir(mode=0o755)

    with pytest.raises(ControlError, match="not a private folder of this user"):
        async with open_control(control_paths("auto", tmp_path / "site.toml"), respond):
            pass
    async with open_control(control_paths("auto", tmp_path / "site.toml"), respond, is_needed=False):
        assert names_in(tmp_path / "scalesocket") == []


async def test_the_socket_moves_with_an_edit(tmp_path: Path) -> None:
    old, new = (
        Site(apps={}, server=Server(control=str(tmp_path / "a"))),
        Site(apps={}, server=Server(control=str(tmp_path / "b"))),
    )

    async with open_control([tmp_path / "a"], respond) as control:
        move = await control.prepare(new, make_plan(old, new))
        await to_thread.run_sync(send_request, [tmp_path / "a"], Reload(dry_run=True), ReloadReport)
        move.commit()
        await to_thread.run_sync(send_request, [tmp_path / "b"], Reload(dry_run=True), ReloadReport)
        await until(lambda: names_in(tmp_path) == ["b"])

        (await control.prepare(old, make_plan(new, old))).roll_back()
        (await control.prepare(new, make_plan(new, new))).commit()
        await to_thread.run_sync(send_request, [tmp_path / "b"], Reload(dry_run=True), ReloadReport)
        await until(lambda: names_in(tmp_path) == ["b"])

        off = Site(apps={}, server=Server(control="off"))
        (await control.prepare(off, make_plan(new, off))).commit()
        await until(lambda: names_in(tmp_path) == [])


async def test_waiting_for_a_lock_does_not_block_the_event_loop(tmp_path: Path) -> None:
    """Neither while the socket of an edit is opened in a locked folder, nor while the old one is removed from a locked folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    old, new = (
        Site(apps={}, server=Server(control=str(tmp_path / "a"))),
        Site(apps={}, server=Server(control=str(elsewhere / "b"))),
    )
    iterations = 0

    async def count_iterations() -> None:
        nonlocal iterations
        while True:
            iterations += 1
            await anyio.sleep(0.01)

    async with open_control([tmp_path / "a"], respond) as control, anyio.create_task_group() as tasks:
        tasks.start_soon(count_iterations)
        with locked(elsewhere), pytest.raises(ControlError, match="another process holds a lock"):
            await control.prepare(new, make_plan(old, new))
        assert iterations >= 5  # 25 in what LOCK_TIMEOUT lasts

        move = await control.prepare(new, make_plan(old, new))
        with locked(tmp_path):
            before = time.monotonic()
            move.commit()
            assert time.monotonic() - before < LOCK_TIMEOUT / 2
            await to_thread.run_sync(send_request, [elsewhere / "b"], Reload(dry_run=True), ReloadReport)
        await until(lambda: names_in(tmp_path) == ["elsewhere"])
        tasks.cancel_scope.cancel()
    assert names_in(elsewhere) == []


async def test_both_ends_find_the_socket_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    file = tmp_path / "site.toml"
    file.touch()
    monkeypatch.chdir(tmp_path)

    paths = control_paths("auto", file)

    assert paths == control_paths("auto", Path("site.toml"))
    assert paths[0].parent == tmp_path / "scalesocket"
    assert paths[-1].parent == Path(f"/tmp/scalesocket-{os.getuid()}")
    async with open_control(paths, respond):
        await to_thread.run_sync(send_request, paths, Reload(dry_run=True), ReloadReport)


async def test_a_server_is_found_after_its_symlink_was_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for version in ("1.toml", "2.toml"):
        (tmp_path / version).touch()
    link = tmp_path / "site.toml"
    link.symlink_to("1.toml")
    places = control_paths("auto", link)

    async with open_control(places, respond):
        link.unlink()
        link.symlink_to("2.toml")

        await to_thread.run_sync(send_request, control_paths("auto", link), Reload(dry_run=True), ReloadReport)
        await to_thread.run_sync(send_request, control_paths("auto", tmp_path / "1.toml"), Reload(dry_run=True), ReloadReport)

    assert names_in(tmp_path / "scalesocket") == []


def test_off_has_no_path_and_an_explicit_path_is_used(tmp_path: Path) -> None:
    assert control_paths("off", tmp_path / "site.toml") == ()
    assert control_paths("auto", None) == ()
    assert control_paths(str(tmp_path / "x.sock"), tmp_path / "site.toml") == (tmp_path / "x.sock",)
