"""A room: one name, one backend, and an audience of clients.

The room decides what a join, a leave, input, an end or a deadline means in its state, and passes the work to its parts: codec,
intake, output, delivery, flow, deadlines and the audience. Each has what it uses and never the room, so each is tested alone.

Everything is synchronous: clients, backend and timers call from event-loop callbacks, and no state is held across an `await`.
Only the room's task, its `Lifecycle`, waits. The room never holds a client: it knows members by id.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

import anyio
import structlog

from scalesocket.backends.backend import Backend
from scalesocket.config.model import App
from scalesocket.edge.ports import Member, RoomAudience
from scalesocket.errors import BACKEND_BEHIND, BACKEND_ENDED, INTERNAL_ERROR, ONESHOT_TAKEN, ROOM_FULL, Close
from scalesocket.rooms.backend_watch import BackendWatch
from scalesocket.rooms.codec import Codec
from scalesocket.rooms.deadlines import Deadlines
from scalesocket.rooms.delivery import Delivery
from scalesocket.rooms.flow import Flow
from scalesocket.rooms.history import History
from scalesocket.rooms.intake import Intake
from scalesocket.rooms.output import Output
from scalesocket.rooms.state import KEPT_WITHOUT_CLIENTS, LABELS, LISTED, STOPPED, Move, State, next_state
from scalesocket.rooms.taps import Taps
from scalesocket.status import Counts, RoomStatus
from scalesocket.wire.batch import ClientId
from scalesocket.wire.frames import Event

log = structlog.get_logger("room")


class Room:
    """One room, from its first client to the end of its last backend."""

    def __init__(
        self,
        name: str,
        app: App,
        *,
        audience: RoomAudience,
        counts: Counts,
        history: History | None,
        on_unlisted: Callable[["Room"], None],
        on_ended: Callable[["Room"], None],
        has_predecessor: bool = False,
    ) -> None:
        """Describe a room of `app`; its `Lifecycle` opens it.

        `on_unlisted` is called when it can no longer be joined, `on_ended` when it has ended.
        """
        self.name = name
        self.app = app
        """The settings in force: those it was opened with, and live changes since."""
        self.state = State.WAITING if has_predecessor else State.STARTING
        self.counts = counts
        self.is_outdated = False
        """Whether the app's settings for new rooms have changed, so that the room stops without clients and does not linger."""
        self.scope: anyio.CancelScope | None = None
        """What `stop` cancels: the time of one backend, from before its start to its end."""
        self._audience = audience
        self._history = history
        self._on_unlisted = on_unlisted
        self._on_ended = on_ended
        self._codec = Codec(app, name)
        self._delivery = Delivery(app.name, name, recipients=audience, history=history, counts=counts)
        self._intake = Intake(audience, counts, may_restart=lambda: self.may_restart)
        self.output = Output(app.name, name, codec=self._codec, delivery=self._delivery, intake=self._intake, stop=self.stop)
        """Receives the output of its backends."""
        self.taps = Taps(self._codec, self._delivery, audience)
        """Observers of its messages."""
        self._flow = Flow(audience)
        audience.connect(self._flow)
        self._deadlines = Deadlines(app, self.stop)
        self._watch = BackendWatch(
            app, name, deadlines=self._deadlines, intake=self._intake, flow=self._flow, counts=counts, stop=self.stop
        )
        self._backend: Backend | None = None
        self._close = INTERNAL_ERROR
        """How clients are closed, from RETIRING or STOPPING on."""
        self._is_taken = False
        """Whether the one client of a oneshot room has joined."""
        self._ended = asyncio.Event()

    @property
    def clients(self) -> Mapping[ClientId, Member]:
        """The clients in the room, in the order they joined."""
        return self._audience.members

    def _move(self, move: Move) -> None:
        was_listed = self.state in LISTED
        self.state = next_state(self.state, move)
        if was_listed and self.state not in LISTED:
            self._on_unlisted(self)

    # --- Clients (edge.ports.ClientRoom)

    def admit(self) -> Close | None:
        """Return why no client may join now, or None; then `welcome` follows when the client was added to the audience."""
        app = self.app
        if app.max_clients is not None and len(self.clients) >= app.max_clients:
            return ROOM_FULL
        if self._intake.is_behind:
            return BACKEND_BEHIND
        if app.oneshot:
            if self._is_taken:
                return ONESHOT_TAKEN
            self._is_taken = True
        return None

    def welcome(self, client: Member) -> None:
        """Send the history to a client that was added to the audience, and a join record to the backend.

        While a predecessor still ends, its output may be added to the history, which is sent after that. If this raises, which
        is a bug, the client is not in the room.
        """
        try:
            self._move(Move.CLIENT_JOINED)
            self._deadlines.stop_idle()
            self._flow.congestion_changed()
            if self._history is not None and self.state is not State.WAITING:
                self._audience.replay(client.id, self._history.replay())
            self._intake.write_membership(self._codec.join_record(client))
        except BaseException:
            if self._audience.remove(client.id):
                self._stop_or_linger()
            raise
        self.counts.connections_total += 1

    def leave(self, client: Member) -> None:
        """Remove a client and send a leave record to the backend. Calls may repeat."""
        if not self._audience.remove(client.id):
            return
        try:
            self._intake.write_membership(self._codec.leave_record(client))
        except Exception:
            log.exception("writing a leave record failed", app=self.app.name, room=self.name, client=client.id)
        self._stop_or_linger()

    def expel(self, client: Member, close: Close) -> None:
        """Close a client and remove it."""
        self._audience.expel(client.id, close)

    def from_client(self, client: Member, messages: Sequence[Event]) -> None:
        """Pass messages of a client to the backend, in order, as one write."""
        counts = self.counts
        counts.messages_in += len(messages)
        for _, payload in messages:
            counts.bytes_in += len(payload)
        records, drops = self._codec.encode(client.id, messages)
        if drops:
            for drop in drops:
                self._delivery.drop(drop)
        if records and not self._intake.write(records, len(messages) - len(drops)):
            counts.messages_dropped += len(messages) - len(drops)

    def congested(self, client: Member) -> None:
        """Note that a client's unsent bytes passed the high-water mark."""
        self._audience.congested(client.id)

    def drained(self, client: Member) -> None:
        """Note that a client's unsent bytes fell below the low-water mark."""
        self._audience.drained(client.id)

    def _stop_or_linger(self) -> None:
        """Stop or linger if there are no clients and the state allows it."""
        if self.clients or self.state in KEPT_WITHOUT_CLIENTS:
            return
        if self.state is State.RETIRING:
            self.stop(self._close)
        elif self.app.oneshot or self.is_outdated or not self.app.idle_timeout:
            self.stop(BACKEND_ENDED)
        else:
            self._move(Move.EMPTIED)
            self._deadlines.start_idle()

    # --- The pool, the gateway and the operations

    def check(self, clock: Callable[[], float]) -> Iterator[None]:
        """Check the deadlines of the backend and the clients by the loop's `clock`, with a break after every few clients.

        A room that stops is not checked: its end has deadlines of its own.
        """
        if self.state not in STOPPED:
            self._watch.check(clock(), self.app, self._backend)
            yield from self._audience.check_keepalives(clock)

    def apply(self, app: App) -> None:
        """Take on live changes: settings that apply to running rooms too."""
        self.app = app
        self._codec.apply(app)
        self._audience.apply(app)
        self._deadlines.apply(app)

    def status(self) -> RoomStatus:
        """Return a snapshot of the room."""
        return RoomStatus(
            name=self.name,
            state=LABELS[self.state],
            pid=self._backend.pid if self._backend is not None else None,
            connections=len(self.clients),
            metadata=self._delivery.metadata,
            counts=self.counts,
        )

    def stop(self, close: Close) -> None:
        """End the room: no client joins, all are closed with `close`, and the backend is stopped. The first call counts."""
        if self.state not in STOPPED:
            self._close = close
        self._move(Move.STOP)
        try:
            self._audience.expel_all(self._close)
        finally:
            if self.scope is not None:
                self.scope.cancel()

    def retire(self, close: Close) -> None:
        """Take no new clients, and stop with the last one. The caller closes the clients over time."""
        if self.state in LISTED:
            self._close = close
        self._move(Move.RETIRE)
        if not self.clients:
            self.stop(close)

    async def wait_ended(self) -> None:
        """Wait until the backend is gone and reaped."""
        await self._ended.wait()

    # --- The lifecycle

    @property
    def is_output_paused(self) -> bool:
        """Whether the backend is not read now, because of slow clients."""
        return self._flow.is_paused

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self.state in STOPPED

    @property
    def may_restart(self) -> bool:
        """Whether another backend may follow the running one."""
        return self.app.restart != "never" and self.state in LISTED

    def predecessor_ended(self) -> None:
        """Send the history, which is complete now, to the clients that joined meanwhile."""
        self._move(Move.PREDECESSOR_ENDED)
        if self._history is not None:
            self._audience.replay_to_all(self._history.replay())

    def backend_began(self, backend: Backend) -> None:
        """Write the queued input to a new backend, and let input and output flow."""
        self._backend = backend
        self._codec.begin()
        self._deadlines.begin(asyncio.get_running_loop().time())
        self._intake.begin(backend)
        self._move(Move.BACKEND_BEGAN)
        self._stop_or_linger()
        self._flow.begin(backend)

    def backend_restarts(self) -> None:
        """Queue input for another backend: first a join record for each client that is present, by id."""
        self._move(Move.BACKEND_RESTARTS)
        self._watch.backend_restarts()
        self._intake.await_next([self._codec.join_record(client) for _, client in sorted(self.clients.items())])

    def backend_finished(self) -> None:
        """Take no new clients: the backend ended, and none follows. The rest of its output is still delivered."""
        self._move(Move.BACKEND_FINISHED)

    def detach(self) -> None:
        """Forget the backend and the metadata that it set: it is gone and reaped."""
        self._backend = None
        self._delivery.metadata = None
        self._intake.detach()
        self._flow.detach()

    def expel_all(self, close: Close) -> None:
        """Close all clients."""
        self._audience.expel_all(close)

    def end(self) -> None:
        """End. Nothing happens to the room after this."""
        try:
            self.stop(INTERNAL_ERROR)
        finally:
            self._deadlines.end()
            self._move(Move.END)
            self._intake.end()
            self._audience.end()
            self.taps.end()
            # They refer to the room. Without cycles it is freed at once, not by the collector.
            del self.output, self._watch, self._deadlines, self._flow
            self._ended.set()
            self._on_ended(self)
