"""The express lane without sockets: a client's bytes in, the server's bytes out, on a loop of virtual time.

The connection, its handshake, the room and its routing are the server's own. The transport is in memory, and so is the room's
program, which echoes each message.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, cast

import anyio

from scalesocket.backends.backend import Receiver
from scalesocket.config.model import App, Server
from scalesocket.gateway import Gateway
from scalesocket.server.connections import Connections
from scalesocket.server.new_connection import NewConnection
from tests.conformance.cases import MAX_MESSAGE, Message
from tests.playing import site_of
from tests.raw import BINARY, CLOSE, FIN, PING, PONG, TEXT, Frame, upgrade
from tests.rooms.memory import MemoryBackend, run_virtual

ECHO: Final[dict[str, Any]] = {"command": ["echo"], "routing": "gwsocket", "max_message": MAX_MESSAGE, "compression": True}
_HEADER: Final = struct.Struct("<III")


class EchoBackend(MemoryBackend):
    """A program that echoes each message to its sender, as `cat` does with routing `gwsocket`."""

    def write(self, records: bytes) -> bool:
        super().write(records)
        asyncio.get_running_loop().call_soon(self.say, records)
        return True

    @property
    def received(self) -> list[Message]:
        """The messages so far, without join and leave messages."""
        messages = []
        at = 0
        while at < len(self.taken):
            _, kind, size = _HEADER.unpack_from(self.taken, at)
            at += _HEADER.size + size
            messages.append((kind, self.taken[at - size : at]))
        return messages


class MemoryTransport(asyncio.Transport):
    """A connection in memory. Keeps what the server writes, and what it does not read yet."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("192.0.2.1", 4321), "sockname": ("127.0.0.1", 9000)})
        self.written = bytearray()
        self.is_ended = False
        """Whether the server ended its side."""
        self._protocol = protocol
        self._unread: list[bytes] = []
        self._is_reading = True
        self._is_closed = False
        protocol.connection_made(self)

    def receive(self, chunk: bytes) -> None:
        """Pass bytes of the peer to the server, unless it does not read now."""
        self._unread.append(chunk)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._unread and self._is_reading:
            self._protocol.data_received(self._unread.pop(0))

    # --- asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_ended, f"{bytes(data)!r:.100} was written after the end"
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_ended = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = not self._is_closed
        asyncio.get_running_loop().call_soon(self._pass_on)

    def is_closing(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = self.is_ended = True
            self._is_reading = False
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()


class Heard(NamedTuple):
    """The frames of a server, by their kind."""

    messages: list[Message]
    pongs: list[bytes]
    close: bytes | None
    """The payload of the close frame, without the reason of one that the server began; None without one."""


class Conversation:
    """One client and its room."""

    def __init__(self, connections: Connections, backends: Mapping[str, EchoBackend], room: str, *fields: str) -> None:
        """Send the head of an upgrade, with additional header fields."""
        self._backends = backends
        self._room = room
        self.transport = MemoryTransport(NewConnection(connections))
        self.transport.receive(upgrade(f"/echo/{room}", *fields))
        end = self.transport.written.index(b"\r\n\r\n") + 4
        self.head = self.transport.written[:end].decode()
        """The head of the response, its end included."""
        del self.transport.written[:end]
        assert self.head.startswith("HTTP/1.1 101 "), self.head

    @property
    def received(self) -> list[Message]:
        """The messages that the program has received."""
        backend = self._backends.get(self._room)
        return backend.received if backend is not None else []

    async def send(self, chunks: Iterable[bytes]) -> None:
        """Send chunks, each after the last was read; wait until everything that follows has happened."""
        for chunk in chunks:
            self.transport.receive(chunk)
        await self.settle()

    async def settle(self) -> None:
        """Wait until nothing more happens by itself, deadlines apart."""
        await asyncio.sleep(0.01)

    def heard(self) -> Heard:
        return sort_frames(parse_frames(bytes(self.transport.written)))


@asynccontextmanager
async def open_conversations(**settings: Any) -> AsyncIterator[Callable[..., Conversation]]:
    """Serve the app `echo`. Yields a function that opens a conversation, each in a room of its own."""
    backends: dict[str, EchoBackend] = {}

    async def open_backend(app: App, env: Mapping[str, str], room: str, receiver: Receiver) -> EchoBackend:
        backends[room] = EchoBackend(receiver)
        return backends[room]

    opened: list[Conversation] = []
    async with anyio.create_task_group() as tasks:
        site = site_of({"echo": {**ECHO, **settings}}, Server())
        gateway = Gateway(site, open_backend=open_backend, tasks=tasks)
        # The general lane and the poller have no part in an upgrade of HTTP/1.1.
        connections = Connections(gateway, cast(Any, None), cast(Any, None))

        def open_one(*fields: str) -> Conversation:
            opened.append(Conversation(connections, backends, f"room{len(opened)}", *fields))
            return opened[-1]

        try:
            yield open_one
        finally:
            connections.close()
            gateway.cut()
            await gateway.wait_ended()
            tasks.cancel_scope.cancel()


def converse(scene: Callable[[Callable[..., Conversation]], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Run a scene with the function that opens conversations."""

    async def run() -> None:
        async with open_conversations(**settings) as open_one:
            await scene(open_one)

    run_virtual(run)


def parse_frames(stream: bytes) -> list[Frame]:
    """Parse the frames of a server, and check what holds for each (RFC 6455 5)."""
    found = []
    at = 0
    while at < len(stream):
        first, size = stream[at], stream[at + 1]
        at += 2
        assert size < 0x80, "a server must not mask"
        if size >= 126:
            width, least = (2, 126) if size == 126 else (8, 1 << 16)
            size = int.from_bytes(stream[at : at + width])
            assert size >= least, "a length is not in its shortest form"
            at += width
        payload = stream[at : at + size]
        assert len(payload) == size, "a frame is incomplete"
        found.append(Frame(first, payload))
        at += size
    return found


def sort_frames(frames: Iterable[Frame]) -> Heard:
    """Sort frames by their kind, and check that none follows a close frame."""
    messages: list[Message] = []
    pongs: list[bytes] = []
    close: bytes | None = None
    for frame in frames:
        assert close is None, f"{frame} after a close frame"
        assert frame.first & FIN, "a server of ours never sends fragments"
        match frame.opcode:
            case opcode if opcode in (TEXT, BINARY):
                messages.append((opcode, frame.payload))
            case opcode if opcode == PONG:
                pongs.append(frame.payload)
            case opcode if opcode == CLOSE:
                frame.payload[2:].decode()
                close = frame.payload[:2]
            case opcode:
                assert opcode == PING, frame
    return Heard(messages, pongs, close)
