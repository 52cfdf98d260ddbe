"""The flow from a room's backend to its clients: when its output is not read for a while, and who is too slow."""

import asyncio
from typing import TYPE_CHECKING, Final

from scalesocket.edge.client import Client
from scalesocket.errors import TOO_SLOW
from scalesocket.rooms.patience import Patience
from scalesocket.wire.batch import ClientId

if TYPE_CHECKING:
    from scalesocket.rooms.room import Room

PACE_CHECK: Final = 1.0
"""Seconds after which a paced room must have made progress; else `send_buffer` judges its clients as they are."""
SHORTEST_DELAY: Final = 0.005
LONGEST_DELAY: Final = 0.05
"""Seconds between two checks of the clients that a room waits for; longer the longer it has waited."""
CHECKS_PER_WAIT: Final = 4
"""The delay is the time waited so far, divided by this."""
ASKED_AT_ONCE: Final = 64
"""Clients whose backlog is asked for at one check: one system call each."""


class Wait:
    """One client that a room waits for, since it left more than `send_buffer` unsent."""

    __slots__ = ("deadline", "enough", "patience")

    def __init__(self, enough: int, *, deadline: float | None = None, patience: Patience | None = None) -> None:
        """Wait until at most `enough` bytes are unsent: until `deadline` in the loop's time, or as long as `patience` lasts."""
        self.enough = enough
        self.deadline = deadline
        self.patience = patience


class Flow:
    """Decides for one room whether its backend is read.

    There are two reasons to stop reading it. *Paced*: all clients are above their high-water mark, so the backend is faster
    than the network and waits for the fastest client. *Waiting*: a client left more than `send_buffer` unsent. With
    `slow_client = "block"` the room waits for it up to `stall_timeout`; with `"close"` as long as its `Patience` lasts,
    which counts only the time in which the client really delays another one.
    """

    __slots__ = (
        "_check_timer",
        "_checked_at",
        "_congested",
        "_delivered",
        "_departed",
        "_first_asked",
        "_first_departed",
        "_is_paced",
        "_pace_timer",
        "_patience",
        "_room",
        "_waiting_since",
        "_waits",
    )

    def __init__(self, room: "Room") -> None:
        """Watch over the output of `room`."""
        self._room = room
        self._congested = 0
        self._is_paced = False
        self._pace_timer: asyncio.TimerHandle | None = None
        self._delivered = 0
        self._waits: dict[Client, Wait] = {}
        self._check_timer: asyncio.TimerHandle | None = None
        self._checked_at = 0.0
        self._waiting_since = 0.0
        self._patience: dict[Client, Patience] = {}
        self._first_asked = 0
        self._departed = Patience()
        """What clients have spent that left."""
        self._first_departed: ClientId | None = None
        """The lowest id of those."""

    def may_send(self, client: Client, messages: int, size: int) -> bool:
        """Judge a congested client before a write of so many messages and bytes, by what it left unsent (`slow_client`)."""
        app = self._room.app
        unsent, limit = client.unsent, app.send_buffer + client.allowance
        if unsent + size <= limit:
            return True
        if app.slow_client == "drop":
            if unsent <= limit:  # one write always fits
                return True
            self._room.counts.slow_dropped += messages
            return False
        self._wait_for(client)
        return True

    def begin(self) -> None:
        """A new backend begins: it waits as the last one would have for clients that still have their buffers full."""
        self._pace()

    def congested(self, client: Client) -> None:
        """Count a client whose unsent bytes passed the high-water mark."""
        client.is_congested = True
        self._congested += 1
        self._pace()

    def drained(self, client: Client) -> None:
        """Note that a client's unsent bytes fell below the low-water mark."""
        client.is_congested = False
        client.allowance = 0
        self._congested -= 1
        self._stop_waiting_for(client)
        self._update_pace()

    def joined(self) -> None:
        """Note that a client with an empty buffer came."""
        self._update_pace()

    def left(self, client: Client) -> None:
        """Forget a client."""
        if client.is_congested:
            client.is_congested = False
            self._congested -= 1
        self._close_account(client)
        self._stop_waiting_for(client)
        self._pace()
        self._update_pace()

    def reset(self) -> None:
        """Forget every reason to wait, with its timers: the backend is gone."""
        self._waits.clear()
        self._stop_checking()
        self._set_paced(False)

    @property
    def is_waiting(self) -> bool:
        """Whether the backend must not be read now."""
        return self._is_paced or bool(self._waits)

    # --- Paced

    def _pace(self) -> None:
        clients = len(self._room.clients)
        if clients and self._congested == clients and not self._is_paced:
            self._set_paced(True)

    def _update_pace(self) -> None:
        if self._is_paced and self._congested < max(1, len(self._room.clients)):
            self._set_paced(False)

    def _set_paced(self, is_paced: bool) -> None:
        if self._pace_timer is not None:
            self._pace_timer.cancel()
            self._pace_timer = None
        self._is_paced = is_paced
        if is_paced:
            self._delivered = self._find_delivered()
            self._pace_timer = asyncio.get_running_loop().call_later(PACE_CHECK, self._check_pace)
        self._room.read_backend(not self.is_waiting)

    def _check_pace(self) -> None:
        """Go on waiting while the network takes bytes from at least one client; else let `send_buffer` judge."""
        self._set_paced(self._find_delivered() != self._delivered)

    def _find_delivered(self) -> int:
        return sum(client.delivered for client in self._room.clients.values())

    # --- Waiting

    def _wait_for(self, client: Client) -> None:
        if client in self._waits:
            return
        app, now = self._room.app, asyncio.get_running_loop().time()
        enough = app.send_buffer + client.allowance - app.send_buffer // 2
        if app.slow_client == "block":
            self._waits[client] = Wait(enough, deadline=now + app.stall_timeout)
        else:
            patience = self._patience.get(client) or self._open_account(client, now)
            patience.begin(client.backlog)
            self._waits[client] = Wait(enough, patience=patience)
        if self._check_timer is None:
            self._waiting_since = now
            self._check_later(now)
            self._room.read_backend(False)

    def _open_account(self, client: Client, now: float) -> Patience:
        """Make the account of a client. One that came after slow clients began to leave has what those have spent.

        Otherwise whoever leaves and comes back would have new patience each time.
        """
        patience = self._patience[client] = Patience()
        if not self._departed.has_spent(now):
            self._first_departed = None
        elif self._first_departed is not None and client.id > self._first_departed:
            patience.take_over(self._departed)
        return patience

    def _close_account(self, client: Client) -> None:
        """Add what a client that leaves has spent to what departed clients have."""
        patience = self._patience.pop(client, None)
        if patience is None:
            return
        now = asyncio.get_running_loop().time()
        if client in self._waits and self._room.has_more_output and self._is_anyone_delayed():
            passed = min(now - self._checked_at, LONGEST_DELAY)
            patience.spend(passed, now, client.backlog, is_delaying=True)
        if patience.has_spent(now):
            if not self._departed.has_spent(now) or self._first_departed is None or client.id < self._first_departed:
                self._first_departed = client.id
            self._departed.take_over(patience)

    def _stop_waiting_for(self, client: Client) -> None:
        if self._waits.pop(client, None) is not None and not self._waits:
            self._stop_checking()
            self._room.read_backend(not self.is_waiting)

    def _check_later(self, now: float) -> None:
        """Check the clients again soon, and no later than the patience of one of them ends."""
        delay = min(LONGEST_DELAY, max(SHORTEST_DELAY, (now - self._waiting_since) / CHECKS_PER_WAIT))
        for wait in self._waits.values():
            delay = min(delay, wait.patience.left(now) if wait.patience is not None else LONGEST_DELAY)
        self._checked_at = now
        self._check_timer = asyncio.get_running_loop().call_later(delay, self._check, 2 * delay)

    def _stop_checking(self) -> None:
        if self._check_timer is not None:
            self._check_timer.cancel()
            self._check_timer = None

    def _check(self, longest: float) -> None:
        """Release clients that have caught up, close those that are too slow.

        At most `longest` of the seconds since the last check count: when there are more, the server itself was late.
        """
        now = asyncio.get_running_loop().time()
        passed = min(now - self._checked_at, longest)
        has_more = self._room.has_more_output
        is_delaying = has_more and self._is_anyone_delayed()
        self._checked_at = now
        self._check_timer = None
        for client, wait in tuple(self._waits.items()):
            if client.unsent <= wait.enough:
                self._stop_waiting_for(client)
                continue
            if wait.patience is None:
                is_too_slow = wait.deadline is not None and now >= wait.deadline
            else:
                if has_more:
                    wait.patience.spend(passed, now, client.backlog, is_delaying=is_delaying)
                is_too_slow = not wait.patience.left(now)
            if is_too_slow:
                self._expel(client)
        if self._waits:
            self._check_later(now)

    def _is_anyone_delayed(self) -> bool:
        """Whether a client has been sent everything so far; of a large room, others are asked at each check."""
        clients = list(self._room.clients.values())
        first = self._first_asked = self._first_asked % max(1, len(clients))
        self._first_asked += ASKED_AT_ONCE
        sample = [*clients[first : first + ASKED_AT_ONCE], *clients[: max(0, first + ASKED_AT_ONCE - len(clients))][:first]]
        return any(client.backlog == 0 for client in sample if client not in self._waits)

    def _expel(self, client: Client) -> None:
        self._room.counts.slow_clients += 1
        self._room.expel(client, TOO_SLOW)
