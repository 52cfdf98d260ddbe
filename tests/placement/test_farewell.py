"""How clients of the general lane are closed when the ASGI server stops before the site does."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from scalesocket.admission.control import Admission, AdmissionControl
from scalesocket.config.model import App
from scalesocket.errors import NODE_STOPS, Close
from scalesocket.placement.passages import Passages
from scalesocket.placement.relay import Relay
from scalesocket.server.general import GeneralClient
from tests.rooms.memory import request

pytestmark = pytest.mark.anyio
CLOSE = (NODE_STOPS.code, NODE_STOPS.reason)


class Control:
    """The admission control of a node that refuses nobody."""

    farewell = NODE_STOPS

    def join(self, admission: Admission, client: Any) -> Close | None:
        client.room = SimpleNamespace(leave=lambda _: None)
        return None


class AsgiWebsocket:
    """An ASGI websocket whose peer sends nothing."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Any] = asyncio.Queue()

    async def receive(self) -> Any:
        await asyncio.get_running_loop().create_future()

    async def send(self, message: Any) -> None:
        self.sent.put_nowait(message)


@pytest.mark.parametrize("lane", ["relay", "room"])
async def test_a_websocket_whose_asgi_server_stops_first_is_closed_with_the_farewell_of_the_node(lane: str) -> None:
    app = App(name="chat", command=("cat",))
    admission = Admission(app, "lobby", request("/chat/lobby"), cast(AdmissionControl, Control()))
    websocket, (ours, theirs) = AsgiWebsocket(), socket.socketpair()
    with theirs, ours:
        if lane == "relay":
            run = Relay(admission, websocket.receive, websocket.send, passages=Passages()).run(ours)
        else:
            run = GeneralClient(admission, websocket.receive, websocket.send).run()
        running = asyncio.create_task(run)
        async with asyncio.timeout(5):
            assert (await websocket.sent.get())["type"] == "websocket.accept"

            running.cancel()

            closed = await websocket.sent.get()
            await asyncio.wait({running})
    assert (closed["type"], closed["code"], closed["reason"]) == ("websocket.close", *CLOSE)
