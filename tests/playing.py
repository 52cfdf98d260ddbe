"""A site in the test's process, and clients for it, made with the `websockets` library."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import Close as CloseFrame

from scalesocket.config.model import App, Server, Site
from scalesocket.gateway import Gateway
from scalesocket.rooms.room import Room
from scalesocket.server.service import Service, open_service
from tests.raw import RawClient
from tests.reused_spawner import ReusedSpawner

Lane = Literal["express", "general", "workers"]
"""How clients connect. On the lane `workers`, they take the express lane of a worker that has few of the rooms."""

PROGRAMS: Final = Path(__file__).parent / "programs"
DEADLINE: Final = 10.0
"""Seconds that a test waits for anything."""


def program(name: str, *words: object) -> tuple[str, ...]:
    """Return the command of a program in tests/programs."""
    return sys.executable, "-I", "-S", "-u", str(PROGRAMS / f"{name}.py"), *map(str, words)


class Player:
    """One websocket client."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, message: str | bytes) -> None:
        await self.connection.send(message)

    async def hear(self, *expected: str | bytes) -> None:
        """Receive exactly these messages, in order."""
        for message in expected:
            heard = await self.listen()
            assert heard == message, f"heard {heard!r:.200}, expected {message!r:.200}"

    async def listen(self) -> str | bytes:
        """Receive the next message."""
        async with asyncio.timeout(DEADLINE):
            return await self.connection.recv()

    async def hear_until(self, last: str | bytes) -> list[str | bytes]:
        """Receive messages up to `last`; return them all."""
        heard = [await self.listen()]
        while heard[-1] != last:
            heard.append(await self.listen())
        return heard

    async def hear_nothing(self, within: float = 0.2) -> None:
        """Check that no message is received for `within` seconds."""
        try:
            async with asyncio.timeout(within):
                message = await self.connection.recv()
        except TimeoutError:
            return
        raise AssertionError(f"heard {message!r:.200}, expected nothing")

    async def wait_closed(self) -> tuple[int, str]:
        """Wait until the server closes; return code and reason, 1006 without a close frame. Unread messages are dropped."""
        try:
            async with asyncio.timeout(DEADLINE):
                while True:
                    await self.connection.recv()
        except websockets.ConnectionClosed as closed:
            frame = closed.rcvd or CloseFrame(1006, "")
            return frame.code, frame.reason

    async def leave(self, code: int = 1000, reason: str = "") -> None:
        async with asyncio.timeout(DEADLINE):
            await self.connection.close(code, reason)

    def cut(self) -> None:
        """Abort the connection."""
        self.connection.transport.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.leave()


class Playground:
    """A running site, and methods to connect to it."""

    def __init__(self, service: Service, lane: Lane) -> None:
        self.service = service
        self.lane = lane
        self.players: list[Player] = []
        self.raw_clients: list[RawClient] = []

    @property
    def gateway(self) -> Gateway:
        return self.service.gateway

    @property
    def rechecks(self) -> int:
        """Clients about which a hook is asked again."""
        return len(self.gateway.admission.rechecks)

    @property
    def port(self) -> int:
        return int(self.service.listeners.addresses[0].rpartition(":")[2])

    async def join(self, path: str, *, receive_buffer: int | None = None, scheme: str = "ws", **options: Any) -> Player:
        """Open a websocket on this test's lane; `options` are those of `websockets.connect`.

        It reads everything, whether or not the test listens. With `receive_buffer`, in bytes, it reads only what the test listens
        to, and the kernel holds little more than that many bytes for it.
        """
        options.setdefault("max_queue", None if receive_buffer is None else 16)
        options.setdefault("max_size", None)
        options.setdefault("compression", None)
        options.setdefault("ping_interval", None)
        async with asyncio.timeout(DEADLINE):
            sock = await self.connect(receive_buffer)
            player = Player(await connect(f"{scheme}://127.0.0.1:{self.port}{path}", sock=sock, proxy=None, **options))
        self.players.append(player)
        return player

    async def join_raw(self, path: str, *, receive_buffer: int | None = None) -> RawClient:
        """Open a websocket on this test's lane, to send and read bytes."""
        client = await RawClient.join(await self.connect(receive_buffer), path)
        self.raw_clients.append(client)
        return client

    async def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """Open a connection of this test's lane, ready for an upgrade."""
        if self.lane == "general":
            return await keep_alive_connection(self.port, receive_buffer)
        return await open_connection(self.port, receive_buffer)

    async def refused(self, path: str, **options: Any) -> int:
        """Try to open a websocket; return the HTTP status it is refused with."""
        try:
            player = await self.join(path, **options)
        except websockets.InvalidStatus as error:
            return error.response.status_code
        raise AssertionError(f"{path} was not refused: {await player.wait_closed()}")

    async def get(self, path: str) -> tuple[int, str]:
        """GET a path; return status and body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            async with asyncio.timeout(DEADLINE):
                answer = (await reader.read()).decode()
        finally:
            writer.close()
        head, _, body = answer.partition("\r\n\r\n")
        return int(head.split(" ")[1]), body

    def room(self, app: str, name: str) -> Room:
        """A room that can be joined."""
        return self.gateway.pools[app].rooms[name]

    async def until(self, holds: Callable[[], bool], *, within: float = DEADLINE) -> None:
        """Wait until `holds` returns True. For states that no message announces."""
        await until(holds, within=within)

    async def wait_no_rooms(self) -> None:
        """Wait until every room and its backend have ended."""
        await self.until(lambda: all(pool.is_empty for pool in self.gateway.pools.values()))

    async def leave_all(self) -> None:
        for player in self.players:
            await player.leave()
        for client in self.raw_clients:
            await client.close()


@asynccontextmanager
async def open_playground(site: Site, lane: Lane = "express") -> AsyncIterator[Playground]:
    """Serve a site on a free port until the block ends; then no backend may be left."""
    spawner = ReusedSpawner()
    spawner.start()
    try:
        async with open_service(site, spawner=spawner) as service:
            playground = Playground(service, lane)
            try:
                yield playground
            finally:
                await playground.leave_all()
        assert not spawner.groups, "backends were left behind"
    finally:
        spawner.close()


def site_of(apps: dict[str, App | dict[str, Any]], server: Server | None = None) -> Site:
    """Make a site of these apps. It listens on a free port of the loopback unless `server` has an address."""
    made = {name: app if isinstance(app, App) else App(name=name, **app) for name, app in apps.items()}
    settings = server.model_dump(exclude_unset=True) if server else {}
    return Site(server=Server(**{"bind": ("127.0.0.1:0",), **settings}), apps=made)


async def open_connection(port: int, receive_buffer: int | None = None) -> socket.socket:
    """Open a connection for which the kernel holds at most `receive_buffer` bytes."""
    sock = socket.socket(proto=socket.IPPROTO_TCP)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    async with asyncio.timeout(DEADLINE):
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


async def keep_alive_connection(port: int, receive_buffer: int | None = None) -> socket.socket:
    """Open a connection and send one plain request, so that it takes the general lane."""
    loop = asyncio.get_running_loop()
    sock = await open_connection(port, receive_buffer)
    async with asyncio.timeout(DEADLINE):
        await loop.sock_sendall(sock, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):
            chunk = await loop.sock_recv(sock, 4096)
            assert chunk, answer
            answer += chunk
    return sock


async def until(holds: Callable[[], bool], *, within: float = DEADLINE) -> None:
    """Wait until `holds` returns True."""
    try:
        async with asyncio.timeout(within):
            while not holds():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"the condition was not met within {within} s") from None


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
