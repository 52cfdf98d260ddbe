# mypy: disable-error-code="import-not-found, import-untyped, misc"
"""Rooms on `cat` with picows, a websocket library in Cython, on uvloop. `python picows_app.py PORT`."""

import asyncio
import sys
from typing import cast

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server


class Room(asyncio.SubprocessProtocol):
    """One `cat` and its clients."""

    def __init__(self) -> None:
        self.clients: set[WSTransport] = set()
        self.rest = b""
        self.waiting = b""
        self.stdin: asyncio.WriteTransport | None = None

    async def open(self) -> None:
        transport, _ = await asyncio.get_running_loop().subprocess_exec(lambda: self, "cat", stderr=None)
        self.stdin = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))
        self.write(self.waiting)

    def write(self, record: bytes) -> None:
        if self.stdin is None:
            self.waiting += record
        else:
            self.stdin.write(record)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *records, self.rest = (self.rest + data).split(b"\n")
        for record in records:
            for client in self.clients:
                client.send(WSMsgType.TEXT, record)


rooms: dict[str, Room] = {}
opening: set[asyncio.Task[None]] = set()


class Client(WSListener):
    """One websocket."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.room = rooms.get(self.name) or Room()
        if self.name not in rooms:
            rooms[self.name] = self.room
            task = asyncio.ensure_future(self.room.open())
            opening.add(task)
            task.add_done_callback(opening.discard)
        self.room.clients.add(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.room.write(frame.get_payload_as_bytes() + b"\n")
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), b"")
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.room.clients.discard(transport)
        if not self.room.clients:
            rooms.pop(self.name, None)
            if self.room.stdin is not None:
                self.room.stdin.close()


def listen(request: WSUpgradeRequest) -> Client:
    return Client(request.path.decode())


async def main() -> None:
    server = await ws_create_server(listen, "127.0.0.1", int(sys.argv[1]), backlog=4096, enable_auto_pong=False)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
