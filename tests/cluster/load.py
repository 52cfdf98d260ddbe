"""Clients that play in rooms of all nodes, come back when they are disconnected, and notice each message that is lost."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from tests.cluster.running import Node, RunningCluster, until

PERIOD: Final = 0.05
"""Seconds between two messages of a client."""
HELD: Final = 25.0
"""Seconds that a join may be held."""
_SESSIONS: Final = itertools.count(1)


class Visitor:
    """One client of one room. Its messages are `SESSION NUMBER`, with a new session for each connection."""

    def __init__(self, load: "Load", room: str, home: int) -> None:
        """`home`: the index of the node that it tries first."""
        self.load = load
        self.room = room
        self.home = home
        self.last_echo = 0.0
        """Of time.monotonic()."""
        self.through: Node | None = None
        """The node that it is connected to."""
        self._connection: ClientConnection | None = None
        self._last = -1
        """The number of its last message; -1 if there will be more."""

    @property
    def is_playing(self) -> bool:
        """Whether its messages come back at the moment."""
        return self._connection is not None and time.monotonic() - self.last_echo < 10 * PERIOD

    async def run(self) -> None:
        """Play until cancelled."""
        for attempt in itertools.count(self.home):
            node = self.load.nodes[attempt % len(self.load.nodes)]
            try:
                async with Joined(node, self.room) as connection:
                    self._connection, self.through = connection, node
                    await self._play(connection)
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd is not None else 1006
                self.load.closes[code] += 1
            except TimeoutError:
                self.load.closes["timeout"] += 1
            except (OSError, InvalidHandshake, InvalidMessage) as error:
                self.load.closes[type(error).__name__] += 1
            finally:
                self._connection = self.through = None
            if self.load.is_ending:
                return
            await asyncio.sleep(random.uniform(0.02, 0.1))

    async def _play(self, connection: ClientConnection) -> None:
        session = next(_SESSIONS)
        self._last = -1
        expected: dict[int, int] = {session: 0}
        sending = asyncio.create_task(self._send(connection, session))
        try:
            started = time.monotonic()
            while self._last != expected[session] - 1 or self._last == -1:
                async with asyncio.timeout(self.load.patience if expected[session] else HELD):
                    text = str(await connection.recv())
                about, number = map(int, text.split())
                if about in expected and number != expected[about]:
                    self.load.faults.append(f"{self.room}: of session {about}, {number} after {expected[about] - 1}")
                expected[about] = number + 1
                if about == session:
                    self.last_echo = time.monotonic()
                    self.load.echoes += 1
                    if number == 0:
                        self.load.joins.append(self.last_echo - started)
        finally:
            sending.cancel()

    async def _send(self, connection: ClientConnection, session: int) -> None:
        """Send until the load ends, and then a last message."""
        with suppress(ConnectionClosed):
            for number in itertools.count():
                is_last = self.load.is_ending
                self._last = number if is_last else -1
                await connection.send(f"{session} {number}")
                if is_last:
                    return
                await asyncio.sleep(PERIOD)


class Joined:
    """A connection that never waits long for its end."""

    def __init__(self, node: Node, room: str, app: str = "acts") -> None:
        self._url = f"ws://{node.address}/{app}/{room}"

    async def __aenter__(self) -> ClientConnection:
        self._connection = await connect(
            self._url, proxy=None, compression=None, ping_interval=None, max_queue=None, open_timeout=HELD, close_timeout=0.5
        )
        return self._connection

    async def __aexit__(self, *error: object) -> None:
        if error[0] is None:
            await self._connection.close()
        else:
            self._connection.transport.abort()


class Load:
    """All visitors. Faults are what must never happen, in whatever state the cluster is."""

    def __init__(self, cluster: RunningCluster, rooms: Sequence[str]) -> None:
        """A visitor of each room for each node."""
        self.cluster = cluster
        self.nodes = cluster.nodes
        self.rooms = rooms
        self.visitors = [Visitor(self, room, home) for room in rooms for home in range(len(self.nodes))]
        self.patience = max(1.0, 2 * cluster.lease)
        """Seconds without an echo after which a client gives its connection up."""
        self.faults: list[str] = []
        self.closes: Counter[int | str] = Counter()
        self.joins: list[float] = []
        """Seconds from each open connection to its first echo."""
        self.echoes = 0
        self.is_ending = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(visitor.run()) for visitor in self.visitors]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def in_room(self, room: str) -> list[Visitor]:
        return [visitor for visitor in self.visitors if visitor.room == room]

    def is_playing(self, rooms: Sequence[str] | None = None) -> bool:
        """Whether all clients of these rooms, or of all, get their messages back."""
        return all(visitor.is_playing for visitor in self.visitors if rooms is None or visitor.room in rooms)

    async def wait_playing(self, *, within: float, rooms: Sequence[str] | None = None) -> float:
        """Wait until all clients of these rooms, or of all, play; return the seconds that it took."""
        return await until(lambda: self.is_playing(rooms), "all clients play", within=within, about=self.describe)

    async def wait_recovered(self, rooms: Sequence[str], *, since: float, within: float) -> float:
        """Wait until somebody gets an echo in each of these rooms with a new backend; return seconds since a fault.

        `since`: of time.monotonic(), when the fault began.
        """
        fences = {room: self.fence_of(room, before=since) for room in rooms}

        def have_all() -> bool:
            return all(
                (act := self.cluster.acts.last_owner(room)) is not None
                and act.fence != fences[room]
                and any(visitor.is_playing for visitor in self.in_room(room))
                for room in rooms
            )

        await until(have_all, f"{', '.join(rooms)} recover", within=within, about=self.describe)
        return time.monotonic() - since

    def fence_of(self, room: str, *, before: float) -> int:
        """The fence of a room's backend at a time of time.monotonic()."""
        boottime = before + time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        return max((act.fence for act in self.cluster.acts.read() if act.room == room and act.at <= boottime), default=0)

    async def end(self) -> None:
        """Stop sending, wait until all clients have every echo, and leave."""
        self.is_ending = True
        done, waiting = await asyncio.wait(self._tasks, timeout=self.patience + 5)
        assert not waiting, f"{len(waiting)} clients do not end\n{self.describe()}"
        for task in done:
            task.result()

    def find_faults(self, *, is_orderly: bool = False) -> list[str]:
        """Return messages that were lost, doubled or reordered, and what backends did wrong; `is_orderly`: none was killed."""
        return self.faults + self.cluster.acts.find_faults(self.rooms if is_orderly else None)

    def describe(self) -> str:
        idle = [
            (visitor.room, visitor.through.name if visitor.through else None)
            for visitor in self.visitors
            if not visitor.is_playing
        ]
        return f"not playing: {idle}; closes: {dict(self.closes)}; echoes: {self.echoes}\n{self.cluster.logs()}"
