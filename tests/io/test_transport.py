"""The socket transport, used by an asyncio protocol, with a real socket as its peer."""

import asyncio
import os
import select
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import pytest

from scalesocket.io.poller import Poller
from scalesocket.io.transport import READ_SIZE, SocketTransport
from tests.playing import until

pytestmark = pytest.mark.anyio


class Recorder(asyncio.Protocol):
    """Records the calls of the transport."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.keeps_open = False
        self.fails = False
        self.fails_to_pause = False

    @property
    def data(self) -> bytes:
        return b"".join(chunk for chunk in self.calls if isinstance(chunk, bytes))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")

    def data_received(self, chunk: bytes) -> None:
        if self.fails:
            raise ValueError("a bug")
        self.calls.append(chunk)

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keeps_open

    def pause_writing(self) -> None:
        self.calls.append("pause")
        if self.fails_to_pause:
            raise ValueError("a bug")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost" if exc is None else type(exc))


def open_pair(kind: str) -> tuple[socket.socket, socket.socket]:
    if kind == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        return ours, theirs


class Connection:
    """A transport, its protocol, and the peer."""

    def __init__(self, poller: Poller, kind: str) -> None:
        ours, self.peer = open_pair(kind)
        self.peer.setblocking(False)
        self.protocol = Recorder()
        self.fd = ours.detach()
        self.transport = SocketTransport(self.fd, "them", self.protocol, poller=poller)

    async def receive(self, size: int) -> bytes:
        """Receive so many bytes from the transport."""
        data = b""
        async with asyncio.timeout(10):
            while len(data) < size:
                data += await asyncio.get_running_loop().sock_recv(self.peer, size - len(data))
        return data

    async def send(self, text: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.peer, text)

    async def fill(self) -> bytes:
        """Write until at least 1 MB is queued; return what was written."""
        piece, written = os.urandom(100_000), b""
        while self.transport.get_write_buffer_size() < 1_000_000:
            self.transport.write(piece)
            written += piece
            await asyncio.sleep(0)
        return written


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def poller(anyio_backend: object) -> AsyncIterator[Poller]:
    with closing(Poller(asyncio.get_running_loop())) as poller:
        yield poller


@pytest.fixture(params=["tcp", "unix"])
async def connection(poller: Poller, request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    connection = Connection(poller, request.param)
    yield connection
    connection.transport.abort()
    connection.peer.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(connection.fd)


async def test_the_protocol_receives_what_the_peer_sends(connection: Connection) -> None:
    await connection.send(b"one")

    await until(lambda: connection.protocol.calls == ["made", b"one"])


async def test_long_input_is_read_in_chunks_of_bounded_size(connection: Connection) -> None:
    text = os.urandom(3 * READ_SIZE + 1)

    sending = asyncio.create_task(connection.send(text))

    await until(lambda: connection.protocol.data == text)
    await sending
    assert max(len(chunk) for chunk in connection.protocol.calls[1:]) <= READ_SIZE


async def test_writes_of_one_iteration_arrive_in_order(connection: Connection, poller: Poller) -> None:
    texts = [b"%d," % number for number in range(200)]

    for text in texts:
        connection.transport.write(text)

    assert await connection.receive(len(b"".join(texts))) == b"".join(texts)


async def test_writes_that_the_peer_does_not_read_are_queued_and_arrive_in_order(connection: Connection) -> None:
    written = await connection.fill()
    assert connection.protocol.calls[-1] == "pause"

    assert await connection.receive(len(written)) == written

    await until(lambda: connection.protocol.calls[-1] == "resume")
    assert connection.protocol.calls[1:] == ["pause", "resume"] * (len(connection.protocol.calls) // 2)
    assert connection.transport.get_write_buffer_size() == 0
    connection.transport.write(b"more")
    assert await connection.receive(4) == b"more"


async def test_the_protocol_sets_the_water_marks(connection: Connection) -> None:
    connection.transport.set_write_buffer_limits(high=4_000_000, low=0)

    await connection.fill()

    assert connection.protocol.calls == ["made"]
    assert connection.transport.get_write_buffer_limits() == (0, 4_000_000)


async def test_a_close_waits_for_the_queue(connection: Connection) -> None:
    written = await connection.fill()
    connection.transport.close()
    connection.transport.write(b"too late")
    assert connection.transport.is_closing()

    assert await connection.receive(len(written)) == written

    await until(lambda: connection.protocol.calls[-1] == "lost")
    assert await asyncio.get_running_loop().sock_recv(connection.peer, 100) == b""


async def test_an_abort_discards_the_queue(connection: Connection) -> None:
    await connection.fill()

    connection.transport.abort()
    connection.transport.abort()
    connection.transport.close()

    await until(lambda: connection.protocol.calls[-1] == "lost")
    assert connection.protocol.calls.count("lost") == 1


async def test_write_eof_waits_for_the_queue_and_reading_goes_on(connection: Connection) -> None:
    written = await connection.fill()
    connection.transport.write_eof()
    with pytest.raises(RuntimeError):
        connection.transport.write(b"too late")

    assert await connection.receive(len(written)) == written
    assert await asyncio.get_running_loop().sock_recv(connection.peer, 100) == b""
    await connection.send(b"still open")

    await until(lambda: connection.protocol.calls[-1] == b"still open")


async def test_the_end_of_the_peer_s_side_closes_the_connection(connection: Connection) -> None:
    connection.peer.shutdown(socket.SHUT_WR)

    await until(lambda: connection.protocol.calls == ["made", "eof", "lost"])


async def test_a_protocol_may_keep_a_connection_open_after_the_end_of_the_peer_s_side(connection: Connection) -> None:
    connection.protocol.keeps_open = True
    connection.peer.shutdown(socket.SHUT_WR)
    await until(lambda: connection.protocol.calls == ["made", "eof"])

    connection.transport.pause_reading()
    connection.transport.resume_reading()
    connection.transport.write(b"answer")

    assert await connection.receive(6) == b"answer"
    assert connection.protocol.calls == ["made", "eof"]


async def test_nothing_is_read_while_reading_is_paused(connection: Connection) -> None:
    connection.transport.pause_reading()
    connection.transport.pause_reading()
    await connection.send(b"one")
    await asyncio.sleep(0.05)
    assert connection.protocol.calls == ["made"]
    assert not connection.transport.is_reading()

    connection.transport.resume_reading()

    await until(lambda: connection.protocol.calls == ["made", b"one"])


async def test_nothing_is_read_after_a_close(connection: Connection) -> None:
    await connection.send(b"one")
    connection.transport.close()

    await until(lambda: connection.protocol.calls == ["made", "lost"])


async def test_the_protocol_can_be_replaced(connection: Connection) -> None:
    other = Recorder()

    connection.transport.set_protocol(other)
    await connection.send(b"one")

    await until(lambda: other.calls == [b"one"])
    assert connection.transport.get_protocol() is other


async def test_a_protocol_that_raises_is_reported_and_loses_its_connection(connection: Connection) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    connection.protocol.fails = True

    await connection.send(b"one")

    await until(lambda: connection.protocol.calls == ["made", "lost"])
    asyncio.get_running_loop().set_exception_handler(None)
    assert [str(report["exception"]) for report in reports] == ["a bug"]


async def test_a_failed_write_without_reading_ends_the_connection_with_the_error(connection: Connection) -> None:
    connection.transport.pause_reading()
    connection.peer.close()

    async with asyncio.timeout(10):
        while not connection.transport.is_closing():
            connection.transport.write(b"hello")
            await asyncio.sleep(0.01)

    await until(lambda: connection.protocol.calls[1:] in ([BrokenPipeError], [ConnectionResetError]))


async def test_input_from_before_a_reset_is_read_although_a_write_has_failed(poller: Poller) -> None:
    connection = Connection(poller, "tcp")
    connection.transport.write(b"a")
    await until(lambda: select.select([connection.peer], [], [], 0)[0] != [])
    text = os.urandom(50_000)
    connection.peer.sendall(text)
    connection.peer.close()  # with something unread, which is a reset

    for _ in range(2):
        poller.begin_iteration()
        connection.transport.write(b"hello")
    assert connection.protocol.calls == ["made"]

    await until(lambda: connection.transport.is_closing())
    assert connection.protocol.data == text


async def test_an_exception_in_pause_writing_loses_no_data(connection: Connection) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    connection.protocol.fails_to_pause = True

    written = await connection.fill()

    assert await connection.receive(len(written)) == written
    asyncio.get_running_loop().set_exception_handler(None)
    assert {str(report["exception"]) for report in reports} == {"a bug"}


async def test_lower_water_marks_apply_to_what_is_queued(connection: Connection) -> None:
    connection.transport.set_write_buffer_limits(high=4_000_000)
    await connection.fill()
    assert connection.protocol.calls == ["made"]

    connection.transport.set_write_buffer_limits(high=1000)

    assert connection.protocol.calls == ["made", "pause"]


async def test_a_broadcast_that_is_queued_for_many_is_held_once(poller: Poller) -> None:
    connections = [Connection(poller, "unix") for _ in range(8)]
    frame = os.urandom(1_000_000)

    for connection in connections:
        connection.transport.write(frame)

    pieces = [connection.transport._outgoing._pieces[0] for connection in connections if connection.transport._outgoing]
    assert len(pieces) == 8
    assert all(isinstance(piece, memoryview) and piece.obj is frame for piece in pieces)
    for connection in connections:
        connection.transport.abort()
        connection.peer.close()
    await asyncio.sleep(0)


async def test_writes_can_be_gathered(connection: Connection) -> None:
    connection.transport.gather_writes()

    for text in (b"head", b"body"):
        connection.transport.write(text)
    with pytest.raises(BlockingIOError):
        connection.peer.recv(100)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert connection.peer.recv(100) == b"headbody"
    connection.transport.write(b"more")
    assert await connection.receive(4) == b"more"


async def test_a_closed_transport_does_not_touch_the_next_connection_with_its_descriptor(poller: Poller) -> None:
    closed = Connection(poller, "unix")
    closed.transport.abort()
    await until(lambda: closed.protocol.calls[-1] == "lost")
    await asyncio.sleep(0)
    others = [Connection(poller, "unix") for _ in range(4)]
    assert closed.fd in [other.fd for other in others]

    closed.transport.pause_reading()
    closed.transport.resume_reading()
    closed.transport.write(b"hello")
    closed.transport.close()
    assert closed.transport.get_extra_info("socket") is None
    assert closed.transport.get_extra_info("sockname") is None

    for other in others:
        await other.send(b"hello")
        await until(lambda other=other: other.protocol.calls == ["made", b"hello"])
        other.transport.abort()
        other.peer.close()
    closed.peer.close()
    await asyncio.sleep(0)


async def test_a_reset_ends_the_connection_with_the_error(poller: Poller) -> None:
    connection = Connection(poller, "tcp")

    connection.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.peer.close()

    await until(lambda: connection.protocol.calls == ["made", ConnectionResetError])


async def test_a_reset_while_writes_are_queued_is_noticed_without_reading(poller: Poller) -> None:
    connection = Connection(poller, "tcp")
    connection.transport.pause_reading()
    await connection.fill()

    connection.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.peer.close()

    await until(lambda: connection.protocol.calls[-1] in (BrokenPipeError, ConnectionResetError))


async def test_extra_info_has_the_socket_and_its_addresses(poller: Poller) -> None:
    connection = Connection(poller, "tcp")

    assert connection.transport.get_extra_info("peername") == "them"
    assert connection.transport.get_extra_info("sockname") == connection.peer.getpeername()
    assert connection.transport.get_extra_info("socket").getpeername() == connection.peer.getsockname()
    assert connection.transport.get_extra_info("ssl_object") is None
    assert connection.transport.get_extra_info("cipher", "none") == "none"

    connection.transport.close()
    connection.peer.close()
    await until(lambda: connection.protocol.calls[-1] == "lost")
    await asyncio.sleep(0)


@pytest.mark.parametrize("has_socket", [False, True])
async def test_a_detached_descriptor_is_not_watched_and_stays_open(connection: Connection, *, has_socket: bool) -> None:
    if has_socket:
        connection.transport.get_extra_info("socket")

    fd = connection.transport.detach()
    await connection.send(b"for another process")
    connection.transport.abort()
    connection.transport.close()
    connection.transport.pause_reading()
    connection.transport.resume_reading()
    assert connection.transport.write(b"dropped") is False
    await asyncio.sleep(0.01)

    assert fd == connection.fd
    assert os.read(fd, 100) == b"for another process"
    assert connection.protocol.calls == ["made"]
    assert connection.transport.fileno() == -1
    assert connection.transport.is_closing()
    os.close(fd)


async def test_a_transport_in_which_something_is_unsent_is_not_detached(connection: Connection) -> None:
    await connection.fill()

    with pytest.raises(AssertionError):
        connection.transport.detach()
