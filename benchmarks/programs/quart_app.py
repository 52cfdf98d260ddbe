"""Rooms on `cat` with Quart's websockets, on Hypercorn and uvloop: the obvious program to write without scalesocket.

`python quart_app.py PORT [CERTIFICATE KEY]`
"""

import asyncio
import sys

import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart, Websocket, websocket

app = Quart(__name__)


class Room:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.clients: set[Websocket] = set()
        self.reader = asyncio.create_task(self.read())

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            text = line.decode().rstrip("\n")
            for client in list(self.clients):
                await client.send(text)


rooms: dict[str, asyncio.Task[Room]] = {}


async def open_room() -> Room:
    pipe = asyncio.subprocess.PIPE
    return Room(await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe, limit=1 << 20))


@app.websocket("/<name>")
async def join(name: str) -> None:
    await websocket.accept()
    if name not in rooms:
        rooms[name] = asyncio.create_task(open_room())
    room = await rooms[name]
    client = websocket._get_current_object()  # type: ignore[attr-defined]
    room.clients.add(client)
    stdin = room.process.stdin
    assert stdin is not None
    try:
        while True:
            text = await websocket.receive()
            stdin.write(text.encode() + b"\n" if isinstance(text, str) else text)
            await stdin.drain()
    finally:
        room.clients.discard(client)
        if not room.clients:
            rooms.pop(name, None)
            stdin.close()


def main() -> None:
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    config.backlog = 4096
    config.websocket_max_message_size = 1 << 20
    if len(sys.argv) > 2:
        config.certfile, config.keyfile = sys.argv[2:4]
    uvloop.run(serve(app, config))


if __name__ == "__main__":
    main()
