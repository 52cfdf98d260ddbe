"""A room: one name, one backend, its clients, its history, its life.

Its pool starts one task for it (`run`), which owns the backend. Everything else here is synchronous: clients and the
backend call in from the event loop's callbacks, and no state is held across an `await`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol, assert_never

import anyio
import structlog

from scalesocket.backends.backend import Backend, Exit, Receiver
from scalesocket.config.model import App
from scalesocket.errors import (
    BACKEND_DEAF,
    BACKEND_ENDED,
    CLIENT_IDLE,
    LIFETIME_REACHED,
    ONESHOT_TAKEN,
    PONG_MISSING,
    ROOM_FULL,
    BackendError,
    Close,
    CloseCode,
)
from scalesocket.rooms.client import Client, Hold
from scalesocket.rooms.conversation import Conversation
from scalesocket.rooms.flow import Flow
from scalesocket.rooms.history import History
from scalesocket.rooms.restart import RestartPolicy
from scalesocket.status import Counts, RoomStatus
from scalesocket.wire.batch import Batch, ClientId
from scalesocket.wire.frames import Event
from scalesocket.wire.routing import CloseClients, Drop, Metadata, Notice, Routed

log = structlog.get_logger("room")

MAX_WAITING: Final = 256 * 1024
"""Bytes of input that wait for a starting backend before its clients are read no more."""

LAST_WORDS: Final = 0.1
"""Seconds, at least, to read what is left in the pipe of a backend that is gone."""

OpenBackend = Callable[[App, Mapping[str, str], str, Receiver], Awaitable[Backend]]
"""Opens every backend of every room: app, environment, room, receiver. Raises BackendError."""


class State(StrEnum):
    """Where a room is in its life; it only moves down this list, but for OPEN ⇄ LINGERING and a restart."""

    STARTING = "starting"
    """The backend is being started or connected; input waits, bounded."""
    OPEN = "open"
    LINGERING = "lingering"
    """No clients; `idle_timeout` runs."""
    STOPPING = "stopping"
    """Out of the pool's map: nobody joins any more."""
    ENDED = "ended"


class Keeper(Protocol):
    """What a room tells the pool that keeps it."""

    def client_left(self, client: Client) -> None:
        """Count a client that is no longer in a room."""

    def room_opening(self, room: "Room") -> None:
        """Count the start of a backend."""

    def room_failed(self, room: "Room") -> None:
        """Count a start that failed."""

    def room_exited(self, room: "Room", end: Exit) -> None:
        """Count how a backend ended."""

    def room_stopping(self, room: "Room") -> None:
        """Take the room out of the map: from now on nobody joins it."""

    def room_ended(self, room: "Room") -> None:
        """Give its place free."""


class Room:
    """One room, from its first client to the end of its backend."""

    def __init__(
        self,
        name: str,
        app: App,
        *,
        environment: Mapping[str, str],
        history: History | None,
        keeper: Keeper,
        open_backend: OpenBackend,
        predecessor: "Room | None" = None,
    ) -> None:
        """Describe a room of `app`; `run` opens it, after its predecessor of the same name has ended."""
        self.name = name
        self.app = app
        """The settings in force: those it was opened with, and live changes since."""
        self.state = State.STARTING
        self.clients: dict[ClientId, Client] = {}
        self.history = history
        self.counts = Counts()
        self.metadata: bytes | None = None
        self._environment = environment
        self._keeper = keeper
        self._open_backend = open_backend
        self._predecessor = predecessor
        self._conversation = Conversation(app, name)
        self._flow = Flow(self)
        self._backend: Backend | None = None
        self._input: Backend | None = None  # who takes input: nobody from a backend's exit to its restart
        self._written = 0
        self._taken = 0  # of what was written, as `check` saw it last ...
        self._taken_at = 0.0  # ... and since when it has not changed
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._is_holding = False  # clients are not read, for the backend's sake
        self._is_taken = False  # by the one client of a oneshot room
        self._was_open = False
        self._last_word: Close | None = None  # how `stop` closes the clients
        self._retiring: Close | None = None
        self._life: anyio.CancelScope | None = None  # what `stop` interrupts
        self._restarts = RestartPolicy()
        self._ended = asyncio.Event()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._lifetime_timer: asyncio.TimerHandle | None = None
        self._told: set[str] = set()
        self._born_at = 0.0

    # --- Clients come, speak and go

    def join(self, client: Client) -> Close | None:
        """Let a client in, replay the history to it and tell the backend; return why not if there is no place."""
        app = self.app
        if app.max_clients is not None and len(self.clients) >= app.max_clients:
            return ROOM_FULL
        if app.oneshot:
            if self._is_taken:
                return ONESHOT_TAKEN
            self._is_taken = True
        client.room = self
        self.clients[client.id] = client
        self.counts.connections_total += 1
        self._stop_lingering()
        if self.state is State.LINGERING:
            self.state = State.OPEN
        self._flow.joined()
        if self.history is not None:
            for batch in self.history.replay():
                size = sum(map(len, batch.payloads))
                client.allowance += size
                self.counts.messages_out += len(batch.payloads)
                self.counts.bytes_out += size
                client.send(batch)
        if self._is_holding:
            client.hold(Hold.BACKEND)
        self._write(self._conversation.join_record(client))
        return None

    def leave(self, client: Client) -> None:
        """Forget a client and tell the backend. Calls may repeat."""
        if self.clients.pop(client.id, None) is None:
            return
        self._flow.left(client)
        self._keeper.client_left(client)
        self._write(self._conversation.leave_record(client))
        if not self.clients:
            self._emptied()

    def expel(self, client: Client, close: Close) -> None:
        """Close one client."""
        client.close(close)
        self.leave(client)

    def from_client(self, client: Client, messages: Sequence[Event]) -> None:
        """Pass messages of a client on to the backend, in order, as one write."""
        counts = self.counts
        counts.messages_in += len(messages)
        for _, payload in messages:
            counts.bytes_in += len(payload)
        records, drops = self._conversation.encode(client.id, messages)
        if drops:
            for drop in drops:
                self._drop(drop)
        if records and not self._write(records):
            counts.messages_dropped += len(messages) - len(drops)

    def congested(self, client: Client) -> None:
        """Note that a client's unsent bytes passed the high-water mark."""
        if client.id in self.clients:
            self._flow.congested(client)

    def drained(self, client: Client) -> None:
        """Note that a client's unsent bytes fell below the low-water mark."""
        if client.id in self.clients and client.is_congested:
            self._flow.drained(client)

    # --- The backend speaks

    def backend_output(self, chunk: bytes) -> None:
        """Route one read of the backend's output (Receiver)."""
        try:
            for routed in self._conversation.route(chunk):
                if type(routed) is Batch:  # nearly always
                    self._send(routed)
                else:
                    self._deliver(routed)
        except BackendError as error:
            self._fail(error)

    def backend_blocked(self) -> None:
        """Read the clients no more until the backend has taken some of its input (Receiver)."""
        self._hold_clients(True)

    def backend_unblocked(self) -> None:
        """Read the clients again (Receiver)."""
        self._hold_clients(False)

    def read_backend(self, is_wanted: bool) -> None:
        """Read the backend's output, or let it wait."""
        if self._backend is not None:
            if is_wanted:
                self._backend.resume_reading()
            else:
                self._backend.pause_reading()

    def _deliver(self, routed: Routed) -> None:
        match routed:
            case Batch():
                self._send(routed)
            case Metadata():
                self.metadata = routed.value
            case CloseClients():
                for client in [self.clients[one] for one in sorted(routed.to) if one in self.clients]:
                    self.expel(client, Close(routed.code, routed.reason))
            case Drop():
                self._drop(routed)
            case Notice():
                self._tell_once(routed.reason)
            case _:
                assert_never(routed)

    def _send(self, batch: Batch) -> None:
        """Give a batch to whom it is for: the frames are encoded once, and each client costs one write."""
        clients: Collection[Client] = self.clients.values()
        if batch.to is not None:
            clients = [self.clients[one] for one in batch.to if one in self.clients]
        if batch.exclude:
            clients = [client for client in clients if client.id not in batch.exclude]
        sent, payloads, counts, flow = len(clients), batch.payloads, self.counts, self._flow
        messages = len(payloads)
        frames = batch.frames if clients else b""
        # The hottest loop of the server: a call of ours for each client would add 0.08 us to the 0.13 that it takes.
        for client in clients:
            if client.is_congested and not flow.may_send(client, messages):
                sent -= 1
            elif client.write is not None:
                client.write(frames)
            else:
                client.send(batch)
        if flow.slow:
            flow.close_slow()
        counts.records_out += messages
        counts.messages_out += messages * sent
        counts.bytes_out += sum(map(len, payloads)) * sent
        if self.history is not None:
            self.history.remember(batch)

    def _flush(self) -> None:
        """Route what was left without a delimiter when the output ended."""
        try:
            for routed in self._conversation.finish():
                self._deliver(routed)
        except BackendError as error:
            self._fail(error)

    def _fail(self, error: BackendError) -> None:
        """End the room: its backend sent what cannot be routed."""
        log.error("backend broke its contract", app=self.app.name, room=self.name, error=str(error))
        self.stop(Close(CloseCode.BACKEND_FAILED, str(error)))

    def _drop(self, drop: Drop) -> None:
        """Count a message, or a wish in one, that was not carried out."""
        self.counts.messages_dropped += 1
        self._tell_once(f"not carried out: {drop.reason}")

    def _tell_once(self, what: str) -> None:
        """Log what is wrong with messages, each thing once a room."""
        if what not in self._told:
            self._told.add(what)
            log.warning(what, app=self.app.name, room=self.name)

    # --- Input for the backend

    def _write(self, records: bytes) -> bool:
        """Give input to the backend, or let it wait for one; False if nobody will ever take it."""
        if self._input is not None:
            self._written += len(records)
            return self._input.write(records)
        if self.state is not State.ENDED:
            self._waiting.append(records)
            self._waiting_size += len(records)
            if self._waiting_size > MAX_WAITING:
                self._hold_clients(True)
            return True
        return False

    def _hold_clients(self, is_held: bool) -> None:
        self._is_holding = is_held
        for client in self.clients.values():
            if is_held:
                client.hold(Hold.BACKEND)
            else:
                client.release(Hold.BACKEND)

    # --- Deadlines

    def check(self, now: float) -> None:
        """Look at the deadlines of the room and its clients; called a few times in the length of the shortest."""
        if self._is_deaf(now):
            log.error("backend does not read", app=self.app.name, room=self.name)
            self.stop(BACKEND_DEAF)
            return
        app = self.app
        for client in list(self.clients.values()):
            is_unanswered = client.pinged_at > client.heard_at
            if client.held:
                client.said_at = client.excused_at = now
            elif is_unanswered and client.unsent:
                client.excused_at = now
            if app.client_idle_timeout is not None and now - client.said_at >= app.client_idle_timeout:
                self.expel(client, CLIENT_IDLE)
            elif is_unanswered and client.excused_at != now:
                if now - max(client.pinged_at, client.excused_at) >= app.ping_timeout:
                    self.expel(client, PONG_MISSING)
            elif now - max(client.heard_at, client.pinged_at) >= app.ping_interval:
                # Also when the last ping is unanswered: a vanished peer that is not read shows only in what is sent.
                client.pinged_at = now
                client.ping()

    def _is_deaf(self, now: float) -> bool:
        """Whether input has waited for `stall_timeout` and the backend took not a byte of it."""
        unsent = self._input.unsent if self._input is not None else 0
        taken = self._written - unsent
        if not unsent or taken != self._taken or self._flow.is_waiting:  # then it may stand still for our sake
            self._taken, self._taken_at = taken, now
        return now - self._taken_at >= self.app.stall_timeout

    def apply(self, app: App) -> None:
        """Take on live changes: settings that count for running rooms too."""
        self.app = app
        self._conversation.apply(app)
        for client in self.clients.values():
            client.apply(app)
        if self._idle_timer is not None:
            self._linger()
        self._arm_lifetime()

    def _arm_lifetime(self) -> None:
        if self._lifetime_timer is not None:
            self._lifetime_timer.cancel()
            self._lifetime_timer = None
        if self.app.max_lifetime is not None and self._was_open:
            loop = asyncio.get_running_loop()
            self._lifetime_timer = loop.call_at(self._born_at + self.app.max_lifetime, self.stop, LIFETIME_REACHED)

    def _emptied(self) -> None:
        """Without clients, linger or stop."""
        if self._retiring is not None:
            self.stop(self._retiring)
        elif self.state is State.STOPPING or not self._was_open:
            return  # a first start is awaited: what was said must reach the backend
        elif self.app.oneshot or not self.app.idle_timeout:
            self.stop(BACKEND_ENDED)
        else:
            if self.state is State.OPEN:
                self.state = State.LINGERING
            self._linger()

    def _linger(self) -> None:
        self._stop_lingering()
        self._idle_timer = asyncio.get_running_loop().call_later(self.app.idle_timeout, self.stop, BACKEND_ENDED)

    def _stop_lingering(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    # --- Life

    def stop(self, close: Close) -> None:
        """End the room: nobody joins, its clients are closed with `close`, its backend climbs the stop ladder."""
        self._last_word = self._last_word or close
        self._leave_map()
        self._close_clients(self._last_word)
        if self._life is not None:
            self._life.cancel()

    def retire(self, close: Close) -> None:
        """Take no new clients and stop with the last one. Who retires a room closes its clients, over time."""
        if self.state not in (State.STOPPING, State.ENDED):
            self._retiring = close
            self._leave_map()
        if not self.clients:
            self.stop(close)

    async def run(self) -> None:
        """Live from start to end. The pool starts this once, as a task; when it returns the room has ENDED."""
        try:
            if self._predecessor is not None:
                await self._predecessor.wait_ended()
                self._predecessor = None
            if self._last_word is None:
                await self._live()
        finally:
            self.stop(Close(CloseCode.BACKEND_FAILED, "internal error"))
            self._stop_lingering()
            if self._lifetime_timer is not None:
                self._lifetime_timer.cancel()
            self.state = State.ENDED
            self._waiting.clear()
            del self._flow  # it points back here: without the cycle a room is freed at once, not by the garbage collector
            self._ended.set()
            self._keeper.room_ended(self)

    async def wait_ended(self) -> None:
        """Wait until the backend is gone and reaped."""
        await self._ended.wait()

    def status(self) -> RoomStatus:
        """What can be seen of the room now."""
        return RoomStatus(
            name=self.name,
            state=self.state,
            pid=self._backend.pid if self._backend is not None else None,
            connections=len(self.clients),
            metadata=self.metadata,
            counts=self.counts,
        )

    async def _live(self) -> None:
        """Serve with one backend after the other, as `restart` says, until `stop` has its word."""
        delay = 0.0
        while self._last_word is None:
            with anyio.CancelScope() as self._life:
                if delay:
                    await anyio.sleep(delay)
                delay = await self._serve()

    async def _serve(self) -> float:
        """Serve with one backend; return the delay before the next one, or `stop` the room when there is none."""
        self._keeper.room_opening(self)
        try:
            backend = await self._open_backend(self.app, self._environment, self.name, self)
        except BackendError as error:
            self._keeper.room_failed(self)
            close = Close(CloseCode.BACKEND_FAILED, str(error))
            delay = self._restart_delay(close, is_success=False)
        else:
            try:
                self._attach(backend)
                end = await backend.wait_exit()
                close = BACKEND_ENDED if end.is_success else Close(CloseCode.BACKEND_FAILED, str(end))
                if not end.is_success:
                    log.warning("backend ended", app=self.app.name, room=self.name, pid=backend.pid, why=close.reason)
                delay = self._restart_delay(close, is_success=end.is_success)
                if delay is None:
                    self._leave_map()
                else:
                    self._await_successor()
                await self._drain(backend)
                if delay is None:
                    self._close_clients(close)
            finally:
                with anyio.CancelScope(shield=True):
                    end = await backend.stop(signal=self.app.stop_signal, timeout=self.app.stop_timeout)
                self._backend = self._input = None
                self._flow.reset()
                self._keeper.room_exited(self, end)
        if delay is None:
            self.stop(close)
            return 0.0
        return delay

    async def _drain(self, backend: Backend) -> None:
        """Deliver what an ended backend has still said.

        Somebody it left may hold its output for ever: that is awaited for `stop_timeout`. But while the output waits for
        slow clients, what is unread may be the backend's own last words; `Flow` bounds that.
        """
        is_waiting = True
        while is_waiting:
            was_waiting = self._flow.is_waiting
            with anyio.move_on_after(max(self.app.stop_timeout, LAST_WORDS)) as scope:
                await backend.wait_drained()
            is_waiting = scope.cancelled_caught and (was_waiting or self._flow.is_waiting)
        self._flush()

    def _attach(self, backend: Backend) -> None:
        """Give the new backend what has waited for it, and let clients and output flow."""
        now = asyncio.get_running_loop().time()
        self._backend = self._input = backend
        self._conversation.begin()
        self._written = self._taken = 0
        self._taken_at = now
        waiting = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_size = 0
        self._hold_clients(False)
        self._write(waiting)
        if not self._was_open:
            self._was_open, self._born_at = True, now
            self._arm_lifetime()
        if self.state is State.STARTING:
            self.state = State.OPEN
        if not self.clients:
            self._emptied()
        self.read_backend(not self._flow.is_waiting)

    def _restart_delay(self, close: Close, *, is_success: bool) -> float | None:
        """Seconds until the next backend, or None for the end: nobody is there to play with it, or it failed too often."""
        mode = self.app.restart
        if mode == "never" or (mode == "on-failure" and is_success) or not self.clients or self.state is State.STOPPING:
            return None
        delay = self._restarts.decide(asyncio.get_running_loop().time())
        if delay is None:
            log.error("backend is given up", app=self.app.name, room=self.name, why=close.reason)
        else:
            log.warning("backend starts again", app=self.app.name, room=self.name, why=close.reason, seconds=round(delay, 3))
        return delay

    def _await_successor(self) -> None:
        """Begin the input of the next backend with a join record for each client that is present, in id order."""
        self.state = State.STARTING
        self.metadata = None
        self._input = None
        for _, client in sorted(self.clients.items()):
            self._write(self._conversation.join_record(client))

    def _leave_map(self) -> None:
        if self.state not in (State.STOPPING, State.ENDED):
            self.state = State.STOPPING
            self._keeper.room_stopping(self)

    def _close_clients(self, close: Close) -> None:
        for client in list(self.clients.values()):
            self.expel(client, close)
