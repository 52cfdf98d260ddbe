"""Our transport, spoken to as asyncio's protocols do, with a real socket at the other end."""

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
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.keeps_open = False
        self.fails = False
        self.fails_to_pause = False

    @property
    def data(self) -> bytes:
        return b"".join(chunk for chunk in self.heard if isinstance(chunk, bytes))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.heard.append("made")

    def data_received(self, chunk: bytes) -> None:
        if self.fails:
            raise ValueError("a mistake")
        self.heard.append(chunk)

    def eof_received(self) -> bool:
        self.heard.append("eof")
        return self.keeps_open

    def pause_writing(self) -> None:
        self.heard.append("pause")
        if self.fails_to_pause:
            raise ValueError("a mistake")

    def resume_writing(self) -> None:
        self.heard.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append("lost" if exc is None else type(exc))


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

    async def hear(self, size: int) -> bytes:
        """So many bytes of what the transport sent."""
        heard = b""
        async with asyncio.timeout(10):
            while len(heard) < size:
                heard += await asyncio.get_running_loop().sock_recv(self.peer, size - len(heard))
        return heard

    async def say(self, text: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.peer, text)

    async def fill(self) -> bytes:
        """Write until much waits; all that was written."""
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


async def test_the_protocol_hears_what_the_peer_says(connection: Connection) -> None:
    await connection.say(b"one")

    await until(lambda: connection.protocol.heard == ["made", b"one"])


async def test_a_long_message_comes_in_reads_of_a_bounded_size(connection: Connection) -> None:
    text = os.urandom(3 * READ_SIZE + 1)

    sending = asyncio.create_task(connection.say(text))

    await until(lambda: connection.protocol.data == text)
    await sending
    assert max(len(chunk) for chunk in connection.protocol.heard[1:]) <= READ_SIZE


async def test_writes_of_one_turn_arrive_in_order(connection: Connection, poller: Poller) -> None:
    texts = [b"%d," % number for number in range(200)]

    for text in texts:
        connection.transport.write(text)

    assert await connection.hear(len(b"".join(texts))) == b"".join(texts)


async def test_what_the_peer_does_not_take_waits_and_arrives_in_order(connection: Connection) -> None:
    written = await connection.fill()
    assert connection.protocol.heard[-1] == "pause"

    assert await connection.hear(len(written)) == written

    await until(lambda: connection.protocol.heard[-1] == "resume")
    assert connection.protocol.heard[1:] == ["pause", "resume"] * (len(connection.protocol.heard) // 2)
    assert connection.transport.get_write_buffer_size() == 0
    connection.transport.write(b"more")
    assert await connection.hear(4) == b"more"


async def test_the_protocol_sets_the_water_marks(connection: Connection) -> None:
    connection.transport.set_write_buffer_limits(high=4_000_000, low=0)

    await connection.fill()

    assert connection.protocol.heard == ["made"]
    assert connection.transport.get_write_buffer_limits() == (0, 4_000_000)


async def test_a_close_comes_after_what_waits(connection: Connection) -> None:
    written = await connection.fill()
    connection.transport.close()
    connection.transport.write(b"too late")
    assert connection.transport.is_closing()

    assert await connection.hear(len(written)) == written

    await until(lambda: connection.protocol.heard[-1] == "lost")
    assert await asyncio.get_running_loop().sock_recv(connection.peer, 100) == b""


async def test_an_abort_does_not_wait(connection: Connection) -> None:
    await connection.fill()

    connection.transport.abort()
    connection.transport.abort()
    connection.transport.close()

    await until(lambda: connection.protocol.heard[-1] == "lost")
    assert connection.protocol.heard.count("lost") == 1


async def test_our_side_is_ended_after_what_waits_and_the_peer_is_heard_on(connection: Connection) -> None:
    written = await connection.fill()
    connection.transport.write_eof()
    with pytest.raises(RuntimeError):
        connection.transport.write(b"too late")

    assert await connection.hear(len(written)) == written
    assert await asyncio.get_running_loop().sock_recv(connection.peer, 100) == b""
    await connection.say(b"still here")

    await until(lambda: connection.protocol.heard[-1] == b"still here")


async def test_the_end_of_the_peer_s_side_closes_the_connection(connection: Connection) -> None:
    connection.peer.shutdown(socket.SHUT_WR)

    await until(lambda: connection.protocol.heard == ["made", "eof", "lost"])


async def test_a_protocol_may_keep_a_connection_whose_peer_says_no_more(connection: Connection) -> None:
    connection.protocol.keeps_open = True
    connection.peer.shutdown(socket.SHUT_WR)
    await until(lambda: connection.protocol.heard == ["made", "eof"])

    connection.transport.pause_reading()
    connection.transport.resume_reading()
    connection.transport.write(b"answer")

    assert await connection.hear(6) == b"answer"
    assert connection.protocol.heard == ["made", "eof"]


async def test_nothing_is_read_while_reading_is_paused(connection: Connection) -> None:
    connection.transport.pause_reading()
    connection.transport.pause_reading()
    await connection.say(b"one")
    await asyncio.sleep(0.05)
    assert connection.protocol.heard == ["made"]
    assert not connection.transport.is_reading()

    connection.transport.resume_reading()

    await until(lambda: connection.protocol.heard == ["made", b"one"])


async def test_nothing_is_read_after_a_close(connection: Connection) -> None:
    await connection.say(b"one")
    connection.transport.close()

    await until(lambda: connection.protocol.heard == ["made", "lost"])


async def test_another_protocol_takes_over(connection: Connection) -> None:
    other = Recorder()

    connection.transport.set_protocol(other)
    await connection.say(b"one")

    await until(lambda: other.heard == [b"one"])
    assert connection.transport.get_protocol() is other


async def test_a_protocol_that_fails_loses_its_connection_and_the_fault_is_reported(connection: Connection) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    connection.protocol.fails = True

    await connection.say(b"one")

    await until(lambda: connection.protocol.heard == ["made", "lost"])
    asyncio.get_running_loop().set_exception_handler(None)
    assert [str(report["exception"]) for report in reports] == ["a mistake"]


async def test_a_write_to_a_peer_that_is_gone_ends_the_connection_with_the_error(connection: Connection) -> None:
    connection.transport.pause_reading()
    connection.peer.close()

    async with asyncio.timeout(10):
        while not connection.transport.is_closing():
            connection.transport.write(b"hello")
            await asyncio.sleep(0.01)

    await until(lambda: connection.protocol.heard[1:] in ([BrokenPipeError], [ConnectionResetError]))


async def test_what_a_peer_said_before_it_went_is_heard_although_it_takes_nothing_more(poller: Poller) -> None:
    connection = Connection(poller, "tcp")
    connection.transport.write(b"a")
    await until(lambda: select.select([connection.peer], [], [], 0)[0] != [])
    text = os.urandom(50_000)
    connection.peer.sendall(text)
    connection.peer.close()  # with something unread, which is a reset

    for _ in range(2):
        poller.begin_turn()
        connection.transport.write(b"hello")
    assert connection.protocol.heard == ["made"]

    await until(lambda: connection.transport.is_closing())
    assert connection.protocol.data == text


async def test_a_protocol_that_fails_to_pause_loses_nothing(connection: Connection) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    connection.protocol.fails_to_pause = True

    written = await connection.fill()

    assert await connection.hear(len(written)) == written
    asyncio.get_running_loop().set_exception_handler(None)
    assert {str(report["exception"]) for report in reports} == {"a mistake"}


async def test_lower_water_marks_count_for_what_waits_already(connection: Connection) -> None:
    connection.transport.set_write_buffer_limits(high=4_000_000)
    await connection.fill()
    assert connection.protocol.heard == ["made"]

    connection.transport.set_write_buffer_limits(high=1000)

    assert connection.protocol.heard == ["made", "pause"]


async def test_what_waits_for_many_is_held_once(poller: Poller) -> None:
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


async def test_writes_are_gathered_for_who_asks_for_it(connection: Connection) -> None:
    connection.transport.gather_writes()

    for text in (b"head", b"body"):
        connection.transport.write(text)
    with pytest.raises(BlockingIOError):
        connection.peer.recv(100)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert connection.peer.recv(100) == b"headbody"
    connection.transport.write(b"more")
    assert await connection.hear(4) == b"more"


async def test_a_connection_that_is_gone_does_nothing_to_the_next_one_with_its_number(poller: Poller) -> None:
    gone = Connection(poller, "unix")
    gone.transport.abort()
    await until(lambda: gone.protocol.heard[-1] == "lost")
    await asyncio.sleep(0)
    others = [Connection(poller, "unix") for _ in range(4)]
    assert gone.fd in [other.fd for other in others]

    gone.transport.pause_reading()
    gone.transport.resume_reading()
    gone.transport.write(b"hello")
    gone.transport.close()
    assert gone.transport.get_extra_info("socket") is None
    assert gone.transport.get_extra_info("sockname") is None

    for other in others:
        await other.say(b"hello")
        await until(lambda other=other: other.protocol.heard == ["made", b"hello"])
        other.transport.abort()
        other.peer.close()
    gone.peer.close()
    await asyncio.sleep(0)


async def test_a_connection_that_is_reset_ends_with_the_error(poller: Poller) -> None:
    connection = Connection(poller, "tcp")

    connection.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.peer.close()

    await until(lambda: connection.protocol.heard == ["made", ConnectionResetError])


async def test_a_peer_that_is_reset_while_something_waits_is_noticed_without_reading(poller: Poller) -> None:
    connection = Connection(poller, "tcp")
    connection.transport.pause_reading()
    await connection.fill()

    connection.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.peer.close()

    await until(lambda: connection.protocol.heard[-1] in (BrokenPipeError, ConnectionResetError))


async def test_it_tells_of_its_socket(poller: Poller) -> None:
    connection = Connection(poller, "tcp")

    assert connection.transport.get_extra_info("peername") == "them"
    assert connection.transport.get_extra_info("sockname") == connection.peer.getpeername()
    assert connection.transport.get_extra_info("socket").getpeername() == connection.peer.getsockname()
    assert connection.transport.get_extra_info("ssl_object") is None
    assert connection.transport.get_extra_info("cipher", "none") == "none"

    connection.transport.close()
    connection.peer.close()
    await until(lambda: connection.protocol.heard[-1] == "lost")
    await asyncio.sleep(0)
