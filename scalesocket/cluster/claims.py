"""The rooms that this node may open: claimed in the directory before, given up after."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from scalesocket.cluster.directory import Directory
from scalesocket.cluster.lease import Lease
from scalesocket.cluster.link import EngineError
from scalesocket.cluster.records import Owned, Recovering, RoomName, Won
from scalesocket.cluster.remote import Claim
from scalesocket.placement.placement import HERE, Here
from scalesocket.rooms.room import Room
from scalesocket.status import PoolView

log = structlog.get_logger("cluster")

UNOPENED: Final = 2.0
"""Seconds after which a room that was won, but not opened, is given up: its client has left, or was refused."""
FENCE: Final = "SCALESOCKET_FENCE"
"""The variable with the fence, in the environment of backends."""


class Claims:
    """The claims of this node (`rooms.leases.RoomLeases`). Each room has one request to the directory at a time."""

    def __init__(self, directory: Directory, lease: Lease) -> None:
        """Claim in `directory` while `lease` is valid."""
        self.pools: Mapping[str, PoolView] = {}
        """The rooms of this node."""
        self.results: Counter[str] = Counter()
        """Claims by result."""
        self.seconds = 0.0
        """The time that they took, together."""
        self._directory = directory
        self._lease = lease
        self._won: dict[RoomName, tuple[int, asyncio.TimerHandle]] = {}
        """Fences of rooms that may be opened now, with the timers that give them up."""
        self._fences: dict[Room, int] = {}
        """Those of rooms that have not ended."""
        self._claiming: dict[RoomName, asyncio.Task[Here | Claim | None]] = {}

    # --- For the pools of rooms

    def may_open(self, app: str, room: str) -> bool:
        """Whether the room was won, in the session of now, and the lease has not ended."""
        won = self._won.get(RoomName(app, room))
        return won is not None and self._lease.is_valid and self._directory.fence_of(app, room) == won[0]

    def begin(self, room: Room) -> Mapping[str, str]:
        """Use the claim for a room that opens now."""
        fence, timer = self._won.pop(RoomName(room.app.name, room.name))
        timer.cancel()
        self._fences[room] = fence
        return {FENCE: str(fence)}

    def end(self, room: Room) -> None:
        """Give up the claim of a room that has ended, so that any node may have it at once."""
        fence = self._fences.pop(room, None)
        if fence is not None:
            self._directory.release(room.app.name, room.name, fence)

    def open_rooms(self) -> Sequence[tuple[Room, int]]:
        """Return the rooms that have not ended, with their fences."""
        return tuple(self._fences.items())

    # --- For the placement

    def is_open(self, app: str, room: str) -> bool:
        """Whether the room is open here. This is asked for every client."""
        pool = self.pools.get(app)
        return pool is not None and room in pool.rooms

    def has(self, name: RoomName) -> bool:
        """Whether the room can be joined here, or be opened."""
        pool = self.pools.get(name.app)
        return pool is None or name.room in pool.rooms or name in self._won  # a removed app: the client is refused here

    def is_claiming(self, name: RoomName) -> bool:
        """Whether a claim has no answer yet. Other nodes may know of its success before this one does."""
        return name in self._claiming

    async def claim(self, name: RoomName) -> Here | Claim | None:
        """Claim a room, unless it is here. Returns its owner; None if that is not known now."""
        if self.has(name):
            return HERE
        task = self._claiming.get(name)
        if task is None:
            task = self._claiming[name] = asyncio.create_task(self._claim(name), name="claim a room")
            task.add_done_callback(lambda _: self._claiming.pop(name, None))
        return await asyncio.shield(task)

    def give_up_all(self) -> None:
        """Give up what was won and is not open: this node takes no more rooms."""
        for name, (_, timer) in tuple(self._won.items()):
            timer.cancel()
            self._give_up(name)

    def clear(self) -> None:
        """Forget what was won: the lease is lost."""
        for _, timer in self._won.values():
            timer.cancel()
        self._won.clear()

    async def close(self) -> None:
        """Cancel all claims."""
        self.clear()
        tasks = tuple(self._claiming.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _claim(self, name: RoomName) -> Here | Claim | None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            found = await self._directory.claim(*name)
        except EngineError:
            self.results["unavailable"] += 1
            return None
        except Exception:
            log.exception("claiming a room failed", app=name.app, room=name.room)
            return None
        finally:
            self.seconds += loop.time() - began
        self.results[type(found).__name__.lower()] += 1
        match found:
            case Won(fence) if self._lease.is_valid and self._directory.fence_of(*name) == fence:
                self._won[name] = fence, loop.call_later(UNOPENED, self._give_up, name)
                return HERE
            case Won(fence):
                self._directory.release(*name, fence)
            case Owned(owner, fence):
                return Claim(owner.advertise, fence)
            case Recovering():
                pass
        return None

    def _give_up(self, name: RoomName) -> None:
        fence, _ = self._won.pop(name)
        ending = next((room for room in self._fences if (room.app.name, room.name) == name), None)
        if ending is None:
            self._directory.release(*name, fence)
        else:  # its backend still runs: no other node may have the room before it has ended
            self._fences[ending] = fence
