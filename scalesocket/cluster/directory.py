"""The directory of the cluster, as one node uses it: its session, its rooms, and what it asks about others.

All of it raises EngineUnavailableError if the engine does not answer in time. Then it may have done what it was asked; `Audit`
puts that right. Tasks that outlive a call belong to the directory, and end in `close`.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Final, TypeVar

from scalesocket.cluster.audit import Audit
from scalesocket.cluster.engine import Engine
from scalesocket.cluster.last_word import LastWord, make_last_word
from scalesocket.cluster.link import EngineError, EngineUnavailableError
from scalesocket.cluster.listing import Listing
from scalesocket.cluster.records import Free, Load, Lost, Owned, Recovering, Renewed, RoomName, Session, Taken, Won
from scalesocket.cluster.requests import SECOND, Requests, SessionLostError
from scalesocket.cluster.scripts import CLAIM, CLOSE, FIND, OPEN, RELEASE, RENEW, REPORT
from scalesocket.config.model import Cluster
from scalesocket.config.units import format_duration

REPORT_SIZE: Final = 500
"""Rooms in one report, which take the engine some milliseconds."""

T = TypeVar("T")


class LeaseMismatchError(EngineError):
    """Another node has another lease."""


class NameTakenError(EngineError):
    """Another process has the name of this node, and runs."""


class Directory:
    """The directory, with two connections: one for the lease, and one for everything else, in order."""

    def __init__(self, settings: Cluster, *, node: str, advertise: str, version: str = "") -> None:
        """Use the engine of `settings`, as the node `node` that others reach at `advertise`."""
        self.node = node
        self.advertise = advertise
        self.doubt = asyncio.Event()
        """Set when an answer says that the session may have ended. The lease then renews at once."""
        self.on_room_lost: Callable[[RoomName], None] = lambda _: None
        """Called for a room that is another node's, although this one held it; it must end."""
        self._version = version
        self._requests = Requests(settings.name, settings.lease)
        requests = self._requests
        self._engine = Engine(settings.engine, name=f"scalesocket:{node}", patience=requests.answer_timeout)
        self._lease_engine = Engine(settings.engine, name=f"scalesocket-lease:{node}", patience=requests.renewal_timeout)
        self.listing: Final = Listing(self._requests, self._engine)
        """Nodes, rooms, summaries and tickets."""
        self._session: Session | None = None
        self._next_inc = secrets.token_hex(8)
        self._held: dict[RoomName, int] = {}
        """The rooms of this node, with their fences."""
        self._unreleased: dict[tuple[RoomName, int], str] = {}
        """Rooms that the engine may not know to be released, with the inc that held them."""
        self._claimed: Counter[RoomName] = Counter()
        """Rooms whose claims have no answer yet."""
        self._tasks: set[asyncio.Task[object]] = set()
        self._audit = Audit(self._lose, self._release_stray)

    @property
    def session(self) -> Session | None:
        """The last session that was opened. Whether its lease is valid, the lease knows."""
        return self._session

    @property
    def is_up(self) -> bool:
        """Whether the engine is connected."""
        return self._lease_engine.is_up

    @property
    def held(self) -> int:
        """The number of rooms of this node."""
        return len(self._held)

    def fence_of(self, app: str, room: str) -> int | None:
        """Return the fence of a room of this node; None if it is not this node's."""
        return self._held.get(RoomName(app, room))

    async def open_session(self, *, keeps_rooms: bool = False) -> Session | Taken:
        """Open a session, instead of this process's last one. Before, all rooms must have ended, except if it `keeps_rooms`.

        Taken: another process has the name, and its lease has not ended. Raises LeaseMismatchError if another node has another
        lease.
        """
        replaced = "" if self._session is None else self._session.inc
        inc = self._next_inc  # the same in the next attempt, if there is no answer to this one
        about, timeout = (self.node, inc, replaced, self.advertise, self._version), self._requests.answer_timeout
        word, rest = await self._requests.run(self._lease_engine, OPEN, *about, timeout=timeout)
        if word == "taken":
            return Taken(rest[0].decode(), rest[1].decode(), rest[2] / SECOND, rest[3])
        if word == "lease":
            raise LeaseMismatchError(
                f"cluster.lease: node {rest[0].decode()} has the lease {format_duration(rest[1] / SECOND)} (set the same)"
            )
        session = Session(self.node, inc, rest[0].decode())
        self._requests.note_fence(rest[1])
        if not keeps_rooms:
            self._held.clear()
        if self._held and isinstance(await self._report(session, session.epoch, is_kept=True), Lost):
            raise SessionLostError("the session ended while rooms were reported")
        self._unreleased.clear()
        self._session, self._next_inc = session, secrets.token_hex(8)
        return session

    async def renew(self, load: Load) -> Renewed | Lost:
        """Renew the lease. The new one counts from before the call. Reports all rooms if the engine may have lost them."""
        session = self._require_session()
        self.doubt.clear()
        words = (session.node, session.inc, session.epoch, load.rooms, load.clients, int(load.is_draining))
        timeout = self._requests.renewal_timeout
        word, rest = await self._requests.run(self._lease_engine, RENEW, *words, timeout=timeout)
        if word == "report":
            return await self._report(session, rest[0].decode())
        if word != "renewed":
            return Lost()
        self._requests.note_fence(rest[0])
        for (name, fence), inc in self._unreleased.items():
            self._start(self._release(name, fence, inc), "release a room again")
        if self._audit.is_due(rest[1], len(self._held), is_busy=bool(self._claimed or self._unreleased)):
            self._start(self._audit.run(self.listing, session, self._held, self._claimed), "compare rooms with the directory")
        return Renewed()

    async def close_session(self) -> None:
        """End the session, when all rooms have ended. Others may have them at once."""
        session, self._session = self._session, None
        if session is not None:
            await self._requests.run(self._lease_engine, CLOSE, session.node, session.inc, "closed")

    def last_word(self) -> LastWord | None:
        """Return the bytes that end this session, for a process that outlives this one; None without a session."""
        if self._session is None:
            return None
        about = self._requests.arguments(self._session.node, self._session.inc, "lost")
        return make_last_word(
            self._lease_engine.address, "EVAL", CLOSE.text, len(self._requests.keys), *self._requests.keys, *about
        )

    async def close(self) -> None:
        """Close the connections, and end all tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._engine.close()
        await self._lease_engine.close()

    async def claim(self, app: str, room: str) -> Won | Owned | Recovering:
        """Claim a room for this node. A caller that wins must check the lease again before the room opens.

        A caller that is cancelled leaves no claim behind. Raises EngineUnavailableError, also without a session.
        """
        claim = self._start(self._claim(self._require_session(), RoomName(app, room)), "claim a room")
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            claim.add_done_callback(lambda _: self._release_unwanted(RoomName(app, room), claim))
            raise

    async def find(self, app: str, room: str) -> Owned | Recovering | Free:
        """Find the owner of a room, which may be this node. Changes nothing."""
        timeout = self._requests.answer_timeout
        return self._requests.read_owner(
            *await self._requests.run(self._engine, FIND, RoomName(app, room).member, timeout=timeout)
        )

    def release(self, app: str, room: str, fence: int) -> None:
        """Give up a room that has ended. It is sent at once, and again until the engine has answered."""
        name = RoomName(app, room)
        if self._held.get(name) == fence:
            del self._held[name]
        if self._session is not None:
            self._start(self._release(name, fence, self._session.inc), "release a room")

    def _require_session(self) -> Session:
        if self._session is None:
            raise SessionLostError("this node has no session")
        return self._session

    async def _claim(self, session: Session, name: RoomName) -> Won | Owned | Recovering:
        self._claimed[name] += 1
        timeout = self._requests.answer_timeout
        try:
            word, rest = await self._requests.run(self._engine, CLAIM, session.node, session.inc, name.member, timeout=timeout)
        finally:
            self._claimed[name] -= 1
            self._claimed += Counter()  # without zeros
        if word == "won" and self._session is not None and self._session.inc == session.inc:
            self._held[name] = self._requests.note_fence(rest[0])
            return Won(rest[0])
        if word == "lost":
            self.doubt.set()
        found = self._requests.read_owner(word, rest)
        assert not isinstance(found, Free)
        return found

    def _release_unwanted(self, name: RoomName, claim: "asyncio.Task[Won | Owned | Recovering]") -> None:
        if not claim.cancelled() and claim.exception() is None and isinstance(found := claim.result(), Won):
            self.release(*name, found.fence)

    def _release_stray(self, name: RoomName, fence: int, inc: str) -> None:
        self._start(self._release(name, fence, inc), "release a room that is not open")

    async def _release(self, name: RoomName, fence: int, inc: str) -> None:
        self._unreleased[name, fence] = inc
        try:
            await self._requests.run(self._engine, RELEASE, inc, name.member, fence, timeout=self._requests.answer_timeout)
        except EngineError:
            return  # the next renewal sends it again
        self._unreleased.pop((name, fence), None)

    async def _report(self, session: Session, epoch: str, *, is_kept: bool = False) -> Renewed | Lost:
        """Report all rooms, on the connection of claims and releases, so that it is in order with them."""
        rooms, elsewhere = list(self._held.items()), []
        timeout = self._requests.answer_timeout
        for start in range(0, len(rooms) or 1, REPORT_SIZE):
            part = [(name, fence) for name, fence in rooms[start : start + REPORT_SIZE] if self._held.get(name) == fence]
            words = [word for name, fence in part for word in (name.member, fence)]
            is_last = start + REPORT_SIZE >= len(rooms)
            about = (session.node, session.inc, epoch, int(is_kept), int(is_last), self.advertise, self._version)
            word, rest = await self._requests.run(self._engine, REPORT, *about, *words, timeout=timeout)
            if word == "epoch":
                raise EngineUnavailableError("the engine was restarted once more")
            if word == "lost":
                return Lost()
            self._requests.note_fence(rest[0])
            elsewhere += [RoomName.parse(member.decode()) for member in rest[1:]]
        if not is_kept:
            self._session = Session(session.node, session.inc, epoch)
        fences = dict(rooms)
        for name in elsewhere:
            self._lose(name, fences[name])
        return Renewed(is_reported=True)

    def _lose(self, name: RoomName, fence: int) -> None:
        if self._held.get(name) == fence:
            del self._held[name]
            self.on_room_lost(name)

    def _start(self, work: Coroutine[None, None, T], name: str) -> "asyncio.Task[T]":
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
