"""The rooms of one app. Owns the map of open rooms, makes their audiences, and starts one task per room."""

import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Protocol

import structlog

from scalesocket.backends.backend import Exit
from scalesocket.capacity.capacity import AppCapacity
from scalesocket.config.describe import describe_target
from scalesocket.config.model import App
from scalesocket.config.plan import with_live_changes
from scalesocket.edge.audience import Audience
from scalesocket.edge.client import Client
from scalesocket.errors import (
    APP_FULL,
    BACKEND_ENDED,
    MAY_NOT_CREATE,
    ROOMS_TOO_FAST,
    SERVER_BUSY,
    TOO_MANY_ROOMS,
    Close,
)
from scalesocket.rooms.containment import contain_exceptions
from scalesocket.rooms.deadlines import find_check_interval
from scalesocket.rooms.histories import Histories
from scalesocket.rooms.iteration_limit import IterationLimit
from scalesocket.rooms.leases import RoomLeases
from scalesocket.rooms.lifecycle import Lifecycle, OpenBackend
from scalesocket.rooms.refusals import LABELS
from scalesocket.rooms.room import Room
from scalesocket.rooms.state import State
from scalesocket.status import AppStatus, Counts, LastExit
from scalesocket.wire.batch import ClientId
from scalesocket.wire.handshake import Request

log = structlog.get_logger("pool")

Environment = Callable[[App, str, Request], Mapping[str, str]]
"""The environment of a room's backend, from its first client's request."""


class StartTask(Protocol):
    """Starts the task of a room."""

    def __call__(self, task: Coroutine[object, object, None], /, *, name: str) -> None:
        """Run a task of that name, which the gateway waits for before it ends."""


class RoomPool:
    """The rooms of one app, its limits and its totals (`lifecycle.BackendObserver`)."""

    def __init__(
        self,
        app: App,
        *,
        open_backend: OpenBackend,
        environment: Environment,
        start_task: StartTask,
        stop_limit: IterationLimit,
        capacity: AppCapacity,
        on_client_enters: Callable[["RoomPool", Client], Close | None],
        on_client_left: Callable[[Client], None],
        on_room_ended: Callable[["RoomPool"], None],
        leases: RoomLeases | None = None,
    ) -> None:
        """Keep rooms of `app`. `stop_limit` bounds how many backends begin to stop in one event-loop iteration.

        `capacity`: what is counted against the limits of the app. The callbacks are called for every client that enters a room,
        which they may refuse, for every one that leaves, and for every room that ends. `leases`: the right to open rooms.
        """
        self.app = app
        self.rooms: dict[str, Room] = {}
        """The rooms that can be joined, by name."""
        self.is_drained = False
        """Whether an operator drained the app: until an edit of it, no client joins. Checked by the admission control."""
        self.rooms_total = 0
        self.refusals: Counter[str] = Counter()
        self._last: dict[str, Room] = {}
        """By name the newest room that has not ended; its successor waits for it."""
        self._audiences: dict[Room, Audience] = {}
        """All rooms that have not ended, each with its clients."""
        self._histories = Histories()
        self._ended_counts = Counts()
        self._starts = 0
        self._failures = 0
        self._crashes = 0
        self._exits: Counter[str] = Counter()
        self._last_exit: LastExit | None = None
        self._open_backend = open_backend
        self._environment = environment
        self._start_task = start_task
        self._stop_limit = stop_limit
        self._capacity = capacity
        self._places = capacity.connections
        self._on_client_enters = on_client_enters
        self._on_client_left = on_client_left
        self._on_room_ended = on_room_ended
        self._leases = leases

    @property
    def connections(self) -> int:
        """Clients in rooms of this process."""
        return self._places.own

    @property
    def is_empty(self) -> bool:
        """Whether no room is left, stopping ones included."""
        return not self._audiences

    @property
    def all_rooms(self) -> tuple[Room, ...]:
        """All rooms that have not ended, stopping ones included."""
        return tuple(self._audiences)

    def clients_of(self, room: Room) -> Mapping[ClientId, Client]:
        """Return the clients of a room of this app by id, in the order they joined; none once it has ended."""
        audience = self._audiences.get(room)
        return {} if audience is None else audience.members

    def join(self, client: Client, name: str, request: Request) -> Close | None:
        """Put a client into the room `name`, opening it if needed; return how to close the client if it is refused."""
        if not self._places.take(self.app.max_connections):
            return self._refused(APP_FULL)
        if (refusal := self._on_client_enters(self, client)) is not None:
            self._places.release()
            return refusal
        try:
            room = self.rooms.get(name)
            if room is None:
                refusal = self._refuse_opening(client, name)
                room = self._open_room(name, request) if refusal is None else None
            if room is not None:
                refusal = room.admit()
                if refusal is None:
                    self._audiences[room].add(client, room)
        except BaseException:
            self._client_left(client)
            raise
        if room is None or refusal is not None:
            self._client_left(client)
            return self._refused(refusal or TOO_MANY_ROOMS)
        room.welcome(client)
        return None

    def _refuse_opening(self, client: Client, name: str) -> Close | None:
        """Return why a client may not open the room `name`. If it may, the tokens for it are taken."""
        app = self.app
        if app.auth is not None and app.auth.create == "role" and not (client.identity and client.identity.may_create):
            return MAY_NOT_CREATE
        if app.max_rooms is not None and name not in self._last and self._capacity.rooms.taken >= app.max_rooms:
            return TOO_MANY_ROOMS
        if app.room_rate is not None and not self._capacity.openings.take(client.peer, app.room_rate, time.monotonic()):
            return ROOMS_TOO_FAST
        if self._leases is not None and not self._leases.may_open(app.name, name):
            return SERVER_BUSY
        return None

    def close(self) -> None:
        """Give back what is counted of the app, which was removed: its last room has ended."""
        self._capacity.close()

    def sweep_addresses(self) -> None:
        """Forget addresses that `room_rate` no longer limits."""
        self._capacity.openings.sweep(self.app.room_rate, time.monotonic())

    @property
    def check_interval(self) -> float:
        """Seconds between two checks of deadlines."""
        return find_check_interval(self.app)

    def apply(self, app: App) -> None:
        """Take on an edit: live changes for running rooms too, the others for rooms opened from now on.

        If settings for new rooms have changed, lingering rooms are stopped, so that the next client gets the new settings; rooms
        that are starting without clients will not linger.
        """
        old, self.app = self.app, app
        self.is_drained &= old == app
        for room in list(self.rooms.values()):
            live = with_live_changes(room.app, app)
            with contain_exceptions(room):  # one failing room must not stop an edit
                if room.state is State.LINGERING and live != app and old != app:
                    room.stop(BACKEND_ENDED)
                else:
                    room.is_outdated |= not room.clients and live != app and old != app
                    room.apply(live)
        self._histories.bound(app, self._last)

    def status(self) -> AppStatus:
        """Return a snapshot of the app."""
        app = self.app
        counts = Counts()
        counts.add(self._ended_counts)
        for room in self._audiences:
            counts.add(room.counts)
        return AppStatus(
            name=app.name,
            mount=app.mount,
            target=describe_target(app),
            has_rooms=app.has_rooms,
            is_drained=self.is_drained,
            rooms=tuple(room.status() for room in self.rooms.values()),
            connections=self.connections,
            rooms_total=self.rooms_total,
            counts=counts,
            backend_starts=self._starts,
            backend_failures=self._failures,
            backend_crashes=self._crashes,
            backend_exits=dict(self._exits),
            last_exit=self._last_exit,
            refusals=dict(self.refusals),
        )

    # --- What audiences, rooms and lifecycles report

    def _client_left(self, client: Client) -> None:
        self._places.release()
        self._on_client_left(client)

    def backend_starts(self) -> None:
        """Count a start."""
        self._starts += 1

    def backend_start_failed(self) -> None:
        """Count a start that failed."""
        self._failures += 1

    def backend_crashed(self) -> None:
        """Count a backend that ended by failure."""
        self._crashes += 1

    def backend_exited(self, room: Room, end: Exit) -> None:
        """Count and keep how a backend of `room` ended."""
        self._exits[end.label] += 1
        self._last_exit = LastExit(how=end.label, at=time.time(), room=room.name, line=end.last_line)

    def _room_unlisted(self, room: Room) -> None:
        """Take the room out of the map: no client can join it, and its successor waits for its end."""
        if self.rooms.get(room.name) is room:
            del self.rooms[room.name]

    def _room_ended(self, room: Room) -> None:
        """Release the room's slot; its history is kept if `persist` is set."""
        del self._audiences[room]
        if self._leases is not None:
            self._leases.end(room)
        self._ended_counts.add(room.counts)
        if self._last.get(room.name) is room:
            del self._last[room.name]
            self._capacity.rooms.release()
            self._histories.used(room.name)
            self._histories.bound(self.app, self._last)
        log.debug("room closed", app=room.app.name, room=room.name)
        self._on_room_ended(self)

    def _open_room(self, name: str, request: Request) -> Room | None:
        """Open a room; None if another process has taken the last place for one."""
        app, predecessor, counts = self.app, self._last.get(name), Counts()
        environment = self._environment(app, name, request)
        if predecessor is None and not self._capacity.rooms.take(app.max_rooms):
            return None
        audience = Audience(app, name, counts, on_left=self._client_left)
        room = Room(
            name,
            app,
            audience=audience,
            counts=counts,
            history=self._histories.open(app, name),
            on_unlisted=self._room_unlisted,
            on_ended=self._room_ended,
            has_predecessor=predecessor is not None,
        )
        if self._leases is not None:
            environment = {**environment, **self._leases.begin(room)}
        lifecycle = Lifecycle(
            room,
            environment=environment,
            observer=self,
            open_backend=self._open_backend,
            stop_limit=self._stop_limit,
            predecessor=predecessor,
        )
        self.rooms[name] = self._last[name] = room
        self._audiences[room] = audience
        self._histories.bound(app, self._last)
        self.rooms_total += 1
        self._start_task(self._run(lifecycle), name=f"room {app.name}/{name}")
        return room

    async def _run(self, lifecycle: Lifecycle) -> None:
        """Run a room. A bug in it ends that room and no other."""
        with contain_exceptions(lifecycle.room):
            await lifecycle.run()

    def _refused(self, close: Close) -> Close:
        self.refusals[LABELS[close]] += 1
        return close
