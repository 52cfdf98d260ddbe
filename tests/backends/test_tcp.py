"""Connections to targets, and processes that listen on a port."""

import asyncio
import os
import signal
import socket
import struct
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from scalesocket.backends.connection import connect_tcp, try_connect
from scalesocket.backends.ports import Ports
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.config.addresses import Endpoint, PortRange
from scalesocket.errors import BackendError
from scalesocket.io.poller import Poller
from tests.backends.recording import OpenRoom, RecordingRoom, children, open_file_limit, program, until
from tests.ports import free_port

pytestmark = pytest.mark.anyio
AUTO = PortRange(0, 0)

Listen = Callable[..., Awaitable[str]]


@pytest.fixture
async def listen(spawner: SpawnerClient) -> AsyncIterator[Listen]:
    """Starts `listen.py`, an independent target; returns its port or path."""
    async with AsyncExitStack() as servers:

        async def start(*words: str) -> str:
            server = await asyncio.create_subprocess_exec(*program("listen", *words), stdout=PIPE)
            servers.push_async_callback(end, server)
            assert server.stdout is not None
            return (await server.stdout.readline()).decode().strip()

        yield start


async def end(server: Process) -> None:
    server.kill()
    await server.communicate()


def target(port: str) -> Endpoint:
    return Endpoint("127.0.0.1", int(port))


async def test_input_goes_to_a_target_and_its_output_comes_back(listen: Listen, open_room: OpenRoom) -> None:
    room = await open_room(tcp=target(await listen()))

    await room.wait_output(b"hello\n")
    assert room.backend.write(b"one\n")
    await room.wait_output(b"one\n")

    assert room.backend.pid is None
    outcome = await room.stop()
    assert outcome.is_success
    assert room.output.endswith(b"bye\n")
    assert not room.backend.write(b"two\n")


async def test_output_of_a_target_on_a_unix_socket_comes_back(listen: Listen, open_room: OpenRoom, tmp_path: Path) -> None:
    path = await listen(f"unix:{tmp_path / 'target'}")
    room = await open_room(unix=Path(path))

    room.backend.write(b"x" * 900_000)

    await room.until(lambda: len(room.output) == len(b"hello\n") + 900_000)
    assert bytes(room.output) == b"hello\n" + b"x" * 900_000
    await room.stop()


async def test_a_target_that_closes_the_connection_ends_the_backend(listen: Listen, open_room: OpenRoom) -> None:
    room = await open_room(tcp=target(await listen("hangup")))
    room.backend.write(b"one\n")

    outcome = await room.end()

    assert (outcome.label, str(outcome)) == ("closed", "the target closed the connection")
    assert bytes(room.output) == b"hello\none\n"
    assert room.backend.unsent == 0


async def test_a_reset_connection_is_reported_as_lost(listen: Listen, open_room: OpenRoom) -> None:
    room = await open_room(tcp=target(await listen("reset")))
    await room.wait_output(b"hello\n")
    room.backend.write(b"one\n")

    outcome = await room.end()

    assert (outcome.label, outcome.error) == ("lost", "connection reset by peer")


async def test_a_backend_can_be_stopped_after_an_unnoticed_reset(open_room: OpenRoom) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        room = await open_room(tcp=target(str(server.getsockname()[1])))
        accepted, _ = server.accept()
        room.backend.pause_reading()  # as for a slow client
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()

        await room.stop(timeout=1)

    assert not room.backend.write(b"more\n")


async def test_a_target_that_does_not_read_blocks_its_room_and_is_closed_in_time(listen: Listen, open_room: OpenRoom) -> None:
    room = await open_room(tcp=target(await listen("deaf")))
    for _ in range(100):
        room.backend.write(b"x" * 100_000)
    assert room.is_blocked
    assert room.backend.unsent > 0
    started = time.monotonic()

    await room.stop(timeout=1)

    assert time.monotonic() - started < 10
    assert not room.is_blocked
    assert room.backend.unsent == 0


async def test_unsent_counts_what_a_target_has_not_read(open_room: OpenRoom) -> None:
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        room = await open_room(tcp=target(deaf.getsockname()[1]))

        for _ in range(100):
            room.backend.write(b"x" * 20_000)
        await asyncio.sleep(0.1)

        assert room.backend.unsent > 1_600_000  # the kernel buffers little of it
        await room.stop(timeout=0.1)


async def test_no_output_of_a_target_is_delivered_while_reading_is_paused(listen: Listen, open_room: OpenRoom) -> None:
    room = await open_room(tcp=target(await listen()))
    await room.wait_output(b"hello\n")

    room.backend.pause_reading()
    room.backend.write(b"one\n")
    await asyncio.sleep(0.1)
    assert bytes(room.output) == b"hello\n"
    room.backend.resume_reading()

    await room.wait_output(b"one\n")
    await room.stop()


async def test_output_before_the_first_read_is_kept(listen: Listen, poller: Poller) -> None:
    room = RecordingRoom()
    connection = await connect_tcp("127.0.0.1", int(await listen()), room, poller)
    await asyncio.sleep(0.1)
    assert bytes(room.output) == b""

    connection.resume()

    await room.wait_output(b"hello\n")
    connection.abort()
    await connection.finish(1.0)


async def test_a_target_that_refuses_is_named(open_room: OpenRoom, logged: list[dict[str, object]]) -> None:
    port = free_port()

    with pytest.raises(BackendError, match=rf"^cannot connect to '127.0.0.1:{port}': connection refused$"):
        await open_room(tcp=target(str(port)))

    assert logged[0]["event"] == "backend not opened"
    assert logged[0]["target"] == f"127.0.0.1:{port}"


async def test_a_unix_socket_that_is_not_there_is_named(open_room: OpenRoom, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"/target': no such file or directory$"):
        await open_room(unix=tmp_path / "target")


async def test_a_target_that_does_not_accept_in_time_is_an_error(open_room: OpenRoom, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as full:
        full.bind(str(tmp_path / "t"))
        full.listen(0)
        _, first = await asyncio.open_unix_connection(str(tmp_path / "t"))

        with pytest.raises(BackendError, match=r"': it did not accept within 0\.2 s$"):
            await open_room(unix=tmp_path / "t", start_timeout=0.2)

        first.close()
        await first.wait_closed()


@pytest.mark.parametrize("options", [(), ("slow",), ("loud",)], ids=str)
async def test_a_process_listens_on_the_port_it_is_given(open_room: OpenRoom, options: tuple[str, ...]) -> None:
    room = await open_room(*program("tcp", *options), port=AUTO)
    assert len(open_room.ports.taken) == 1

    room.backend.write(b"one\n")

    await room.wait_output(b"hello\none\n")
    assert room.backend.pid in children_of(open_room.spawner.pid)
    outcome = await room.stop()
    assert outcome.status == 0
    assert room.output.endswith(b"bye\n")


async def test_small_messages_to_a_process_on_a_port_are_sent_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connected = await try_connect(server.getsockname()[1], 1.0)
        assert connected is not None
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=connected)

        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

        transport.close()


def children_of(pid: int | None) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


async def test_standard_output_of_a_process_on_a_port_goes_to_the_log(
    open_room: OpenRoom, logged: list[dict[str, object]]
) -> None:
    room = await open_room(*program("tcp"), port=AUTO)
    await room.wait_output(b"hello\n")

    await room.stop()

    (event,) = (event for event in logged if event["event"] == "stdout")
    assert (event["line"], event["pid"], event["room"]) == ("before listening", room.backend.pid, "lobby")


async def test_a_process_that_accepts_once_gets_the_connection_of_the_room(open_room: OpenRoom) -> None:
    room = await open_room(*program("tcp", "slow"), port=AUTO, start_delay=0.2)

    assert room.backend.write(b"one\n")

    await room.wait_output(b"hello\none\n")
    await room.stop()


async def test_the_exit_of_a_process_takes_precedence_over_the_end_of_its_connection(open_room: OpenRoom) -> None:
    room = await open_room(*program("tcp", "exit"), port=AUTO)
    room.backend.write(b"one\n")

    outcome = await room.end()

    assert outcome.status == 4
    assert bytes(room.output) == b"hello\none\n"


async def test_a_process_that_closes_its_connection_and_runs_on_counts_as_ended(open_room: OpenRoom) -> None:
    room = await open_room(*program("tcp", "hangup"), port=AUTO)
    room.backend.write(b"one\n")

    outcome = await room.end()

    assert outcome.label == "closed"


async def test_a_process_that_does_not_listen_in_time_is_an_error(open_room: OpenRoom) -> None:
    started = time.monotonic()

    with pytest.raises(BackendError, match=r"': it did not listen on port \d+ within 0.3 s$"):
        await open_room(*program("tcp", "never"), port=AUTO, start_timeout=0.3)

    assert time.monotonic() - started < 10
    assert open_room.ports.taken == frozenset()
    assert children() == [open_room.spawner.pid]


async def test_a_process_that_ends_before_it_listens_is_restarted_on_other_ports(
    open_room: OpenRoom, logged: list[dict[str, object]]
) -> None:
    with pytest.raises(BackendError, match=r"': the program ended with exit status 3 before it listened on port \d+$"):
        await open_room(*program("crash", 3), port=AUTO)

    assert [event["event"] for event in logged].count("backend restarted on another port") == 2


async def test_a_process_whose_port_was_taken_gets_another(open_room: OpenRoom, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    script = f"if mkdir {flag}; then echo in use >&2; exit 1; fi; exec {sys.executable} {program('tcp')[-1]}"

    room = await open_room("sh", "-c", script, port=AUTO)

    await room.wait_output(b"hello\n")
    assert flag.is_dir()  # the first process ran
    await room.stop()


async def test_a_range_of_ports_is_exhausted_until_one_is_released(open_room: OpenRoom) -> None:
    first = next(port for port in range(20000, 30000) if all(Ports()._find(n, n) for n in (port, port + 1)))
    pair = PortRange(first, first + 1)
    one = await open_room(*program("tcp"), port=pair)
    two = await open_room(*program("tcp"), port=pair)
    assert open_room.ports.taken == {first, first + 1}

    with pytest.raises(BackendError, match=f"': no port is free in {first}-{first + 1}$"):
        await open_room(*program("tcp"), port=pair)

    await one.stop()
    three = await open_room(*program("tcp"), port=pair)
    await three.wait_output(b"hello\n")
    await two.stop()
    await three.stop()


async def test_a_port_with_another_listener_is_an_error(open_room: OpenRoom) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(BackendError, match=f"': port {port} is not free$"):
            await open_room(*program("tcp"), port=PortRange(port, port))


async def test_a_start_on_a_port_that_is_cancelled_leaves_nothing(open_room: OpenRoom) -> None:
    opening = asyncio.ensure_future(open_room(*program("tcp", "never"), port=AUTO))
    await until(lambda: bool(open_room.spawner.groups))
    await asyncio.sleep(0.05)

    opening.cancel()

    with pytest.raises(asyncio.CancelledError):
        await opening
    assert open_room.ports.taken == frozenset()
    assert not open_room.spawner.groups


async def test_a_stubborn_process_on_a_port_is_killed(open_room: OpenRoom) -> None:
    script = f"trap '' TERM; {sys.executable} {program('tcp')[-1]}; sleep 60"
    room = await open_room("sh", "-c", script, port=AUTO)
    await room.wait_output(b"hello\n")

    outcome = await room.stop(timeout=0.2)

    assert outcome.signal == signal.SIGKILL


@pytest.mark.parametrize("allowed", [AUTO, PortRange(20000, 20009)], ids=str)
async def test_a_start_that_finds_no_descriptor_for_its_port_is_an_error(open_room: OpenRoom, allowed: PortRange) -> None:
    lowest = os.dup(0)
    os.close(lowest)

    with open_file_limit(lowest), pytest.raises(BackendError, match=r"': cannot look for a free port: too many open files$"):
        await open_room(*program("tcp"), port=allowed)

    assert open_room.ports.taken == frozenset()


async def test_a_connection_that_finds_no_descriptor_is_an_error(spawner: SpawnerClient) -> None:
    lowest = os.dup(0)
    os.close(lowest)

    with open_file_limit(lowest), pytest.raises(BackendError, match=r"^too many open files$"):
        await try_connect(1, 1.0)

    assert children() == [spawner.pid]


@pytest.mark.parametrize("first", [0, 20000])
def test_no_port_is_reserved_twice(first: int) -> None:
    ports = Ports()

    taken = [ports.take(first, first and first + 500) for _ in range(200)]

    assert len(set(taken)) == 200
    assert ports.taken == set(taken)
    for port in taken:
        ports.release(port)
