"""In which order the clients of a room hear what is for everyone."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from scalesocket.config.model import App
from scalesocket.edge.client import Client
from scalesocket.errors import Close
from scalesocket.rooms.keeper import Keeper
from scalesocket.rooms.room import Room
from scalesocket.wire.batch import Batch, ClientId
from scalesocket.wire.handshake import Request, parse_request

pytestmark = pytest.mark.anyio


class NoKeeper(Keeper):
    def room_stopping(self, room: Room) -> None: ...

    def client_joined(self, client: Client) -> None: ...

    def client_left(self, client: Client) -> None: ...


class Listener(Client):
    """Says when it hears something."""

    def __init__(self, number: int, request: Request, hear: Callable[[int], None]) -> None:
        super().__init__(request, asyncio.get_running_loop().time())
        self.id = ClientId(number)
        self.hear = hear

    def send(self, batch: Batch) -> None:
        for _ in batch.payloads:
            self.hear(self.id)

    def close(self, close: Close) -> None: ...

    def abort(self) -> None: ...

    def ping(self) -> None: ...

    def apply(self, app: App) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    @property
    def unsent(self) -> int:
        return 0

    @property
    def backlog(self) -> int:
        return 0

    @property
    def delivered(self) -> int:
        return 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_another_client_is_first_each_time() -> None:
    room = Room("lobby", App(name="chat", command=("cat",), cwd=Path("/")), history=None, keeper=NoKeeper())
    request = parse_request(b"GET /chat/lobby HTTP/1.1\r\nHost: x", peer=None, local=None, is_secure=False)
    heard: list[int] = []
    clients = [Listener(number, request, heard.append) for number in (1, 2, 3)]
    for client in clients:
        room.join(client)

    room._conversation.begin()

    orders = []
    for text in (b"a\n", b"b\n", b"c\n", b"d\n"):
        heard.clear()
        room.backend_output(text)
        orders.append(tuple(heard))

    assert [set(order) for order in orders] == [{1, 2, 3}] * 4
    assert len({order[0] for order in orders[:3]}) == len({order[-1] for order in orders[:3]}) == 3

    room.leave(clients[1])
    room.leave(clients[2])
    heard.clear()
    room.backend_output(b"e\n")
    room.leave(clients[0])
    room.backend_output(b"f\n")

    assert heard == [1]
