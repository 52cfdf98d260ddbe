"""Ten thousand silent clients that are due for a ping at the same time: how long they block the event loop.

`python -m tests.attacks.ping_wave` prints the longest event-loop iterations. The server is in this process, the clients are in
another one, which answers every ping.
"""

import argparse
import asyncio
import multiprocessing
import selectors
import socket
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final

import uvloop

from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.config.model import App, Server, Site
from scalesocket.open_files import raise_open_files
from scalesocket.server.service import open_service
from scalesocket.supervisor import tune_interpreter
from tests.raw import mask_frame, upgrade

PONG: Final = mask_frame(b"", 10)
ROOM: Final = 1_000
"""Clients of one room."""
INTERVAL: Final = 4.0
"""Seconds between pings, so that a short run sees several."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    uvloop.run(measure(arguments.clients, arguments.seconds))


async def measure(clients: int, seconds: float) -> None:
    """Serve the clients, and time each iteration of the event loop."""
    app = App(name="quiet", command=("cat",), cwd=Path("/"), ping_interval=INTERVAL, ping_timeout=30.0, max_clients=None)
    site = Site(server=Server(bind=("127.0.0.1:0",), max_connections=None), apps={"quiet": app})
    spawner = SpawnerClient()
    spawner.start()
    raise_open_files()
    try:
        async with open_service(site, spawner=spawner) as service:
            port = int(service.listeners.addresses[0].rpartition(":")[2])
            ready = multiprocessing.Event()
            players = multiprocessing.Process(target=answer_pings, args=(port, clients, ready), daemon=True)
            players.start()
            while not ready.is_set():  # noqa: ASYNC110 - set by another process
                await asyncio.sleep(0.05)
            now = asyncio.get_running_loop().time()
            for room in service.gateway.pools["quiet"].all_rooms:
                for client in room.clients.values():
                    client.last_received_at = client.last_ping_at = client.last_message_at = now
            tune_interpreter()
            iterations = await time_iterations(seconds)
            left = service.gateway.connections
            players.kill()
            players.join()
    finally:
        spawner.close()
    iterations.sort(reverse=True)
    print(f"{left} of {clients} clients stayed; {len(iterations)} event-loop iterations in {seconds:.0f} s")
    print("longest, in ms: " + ", ".join(f"{iteration * 1000:.1f}" for iteration in iterations[:10]))


async def time_iterations(seconds: float) -> list[float]:
    """Measure each event-loop iteration, in seconds of this thread's CPU time."""
    found = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = time.thread_time()
        await asyncio.sleep(0)
        found.append(time.thread_time() - before)
    return found


def answer_pings(port: int, count: int, ready: Event) -> None:
    """Connect `count` clients, and answer their pings."""
    selector = selectors.DefaultSelector()
    for number in range(count):
        sock = socket.create_connection(("127.0.0.1", port), 10)
        sock.sendall(upgrade(f"/quiet/r{number // ROOM}"))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(4096)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    ready.set()
    while True:
        for key, _ in selector.select():
            player = key.fileobj
            assert isinstance(player, socket.socket)
            if player.recv(4096):
                player.sendall(PONG)
            else:
                selector.unregister(player)


if __name__ == "__main__":
    main()
