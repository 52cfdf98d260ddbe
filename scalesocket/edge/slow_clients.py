"""Clients that left more than `send_buffer` unsent, and what `slow_client` does about them."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from scalesocket.config.model import App
from scalesocket.edge.client import Client
from scalesocket.edge.patience import Patience
from scalesocket.errors import TOO_SLOW, Close
from scalesocket.status import Counts
from scalesocket.wire.batch import ClientId

SHORTEST_DELAY: Final = 0.005
LONGEST_DELAY: Final = 0.05
"""Seconds between two checks of the clients that are waited for; the longer the wait, the longer the delay."""
CHECKS_PER_WAIT: Final = 4
"""The delay is the time waited so far, divided by this."""
SAMPLE: Final = 64
"""Clients whose backlog is queried in one check: one system call each."""


class Wait:
    """One client that the room waits for, since it left more than `send_buffer` unsent."""

    __slots__ = ("deadline", "enough", "patience")

    def __init__(self, enough: int, *, deadline: float | None = None, patience: Patience | None = None) -> None:
        """Wait until at most `enough` bytes are unsent: until `deadline` in the loop's time, or as long as `patience` lasts."""
        self.enough = enough
        self.deadline = deadline
        self.patience = patience


class SlowClients:
    """Decides whether a congested client is sent a batch, and how long the room waits for it.

    With `slow_client = "drop"` the room never waits: messages are left out. With `"block"` the room waits for a client up to
    `stall_timeout`; with `"close"` as long as its `Patience` lasts, which counts only time in which the client delays
    another one.
    """

    __slots__ = (
        "_accounts",
        "_app",
        "_changed",
        "_check_timer",
        "_checked_at",
        "_clients",
        "_counts",
        "_departed",
        "_expel",
        "_first_departed",
        "_has_more",
        "_sample_start",
        "_waiting_since",
        "_waits",
    )

    def __init__(
        self,
        app: App,
        clients: Mapping[ClientId, Client],
        counts: Counts,
        *,
        expel: Callable[[ClientId, Close], None],
        has_more: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        """Apply the policy of `app` to `clients`, a live view of all clients in the room.

        `expel` closes one of them, `has_more` says whether the backend has unread output, and `changed` is called when
        `is_waiting` changes.
        """
        self._app = app
        self._clients = clients
        self._counts = counts
        self._expel = expel
        self._has_more = has_more
        self._changed = changed
        self._waits: dict[Client, Wait] = {}
        self._check_timer: asyncio.TimerHandle | None = None
        self._checked_at = 0.0
        self._waiting_since = 0.0
        self._accounts: dict[Client, Patience] = {}
        self._sample_start = 0
        self._departed = Patience()
        """What clients that left have spent."""
        self._first_departed: ClientId | None = None
        """The lowest id among them."""

    @property
    def is_waiting(self) -> bool:
        """Whether the backend must not be read now."""
        return bool(self._waits)

    def apply(self, app: App) -> None:
        """Take on live changes of the app."""
        self._app = app

    def may_send(self, client: Client, messages: int, size: int) -> bool:
        """Decide whether a congested client is sent `messages` messages with `size` bytes, by what it left unsent."""
        app = self._app
        unsent, limit = client.unsent, app.send_buffer + client.allowance
        if unsent + size <= limit:
            return True
        if app.slow_client == "drop":
            if unsent <= limit:  # one write always fits
                return True
            self._counts.slow_dropped += messages
            return False
        self._wait_for(client)
        return True

    def caught_up(self, client: Client) -> None:
        """Stop waiting for a client: its unsent bytes fell below the low-water mark, or it left."""
        if self._waits.pop(client, None) is not None and not self._waits:
            self._stop_checking()
            self._changed()

    def left(self, client: Client) -> None:
        """Forget a client that left; what it has spent is charged to clients that join from now on."""
        self._close_account(client)
        self.caught_up(client)

    def stop_waiting(self) -> None:
        """Stop waiting for all of them."""
        self._waits.clear()
        self._stop_checking()

    def _wait_for(self, client: Client) -> None:
        if client in self._waits:
            return
        app, now = self._app, asyncio.get_running_loop().time()
        enough = app.send_buffer + client.allowance - app.send_buffer // 2
        if app.slow_client == "block":
            self._waits[client] = Wait(enough, deadline=now + app.stall_timeout)
        else:
            patience = self._accounts.get(client) or self._open_account(client, now)
            patience.begin(client.backlog)
            self._waits[client] = Wait(enough, patience=patience)
        if self._check_timer is None:
            self._waiting_since = now
            self._check_later(now)
            self._changed()

    def _open_account(self, client: Client, now: float) -> Patience:
        """Open the account of a client. If it joined after slow clients began to leave, it inherits what those have spent.

        Otherwise a client could get new patience by reconnecting.
        """
        patience = self._accounts[client] = Patience()
        if not self._departed.has_spent(now):
            self._first_departed = None
        elif self._first_departed is not None and client.id > self._first_departed:
            patience.take_over(self._departed)
        return patience

    def _close_account(self, client: Client) -> None:
        """Add what a leaving client has spent to the account of departed clients."""
        patience = self._accounts.pop(client, None)
        if patience is None:
            return
        now = asyncio.get_running_loop().time()
        if client in self._waits and self._has_more() and self._is_anyone_delayed():
            passed = min(now - self._checked_at, LONGEST_DELAY)
            patience.spend(passed, now, client.backlog, is_delaying=True)
        if patience.has_spent(now):
            if not self._departed.has_spent(now) or self._first_departed is None or client.id < self._first_departed:
                self._first_departed = client.id
            self._departed.take_over(patience)

    def _check_later(self, now: float) -> None:
        """Check again soon, at the latest when the first patience ends."""
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
        """Stop waiting for clients that caught up, close those that are too slow.

        At most `longest` of the seconds since the last check count: a longer time means that the server itself was late.
        """
        now = asyncio.get_running_loop().time()
        passed = min(now - self._checked_at, longest)
        has_more = self._has_more()
        is_delaying = has_more and self._is_anyone_delayed()
        self._checked_at = now
        self._check_timer = None
        for client, wait in tuple(self._waits.items()):
            if client.unsent <= wait.enough:
                self.caught_up(client)
                continue
            if wait.patience is None:
                is_too_slow = wait.deadline is not None and now >= wait.deadline
            else:
                if has_more:
                    wait.patience.spend(passed, now, client.backlog, is_delaying=is_delaying)
                is_too_slow = not wait.patience.left(now)
            if is_too_slow:
                self._counts.slow_clients += 1
                self._expel(client.id, TOO_SLOW)
        if self._waits:
            self._check_later(now)

    def _is_anyone_delayed(self) -> bool:
        """Whether a client has been sent everything so far. In a large room each check queries another sample."""
        clients = list(self._clients.values())
        first = self._sample_start = self._sample_start % max(1, len(clients))
        self._sample_start += SAMPLE
        sample = [*clients[first : first + SAMPLE], *clients[: max(0, first + SAMPLE - len(clients))][:first]]
        return any(client.backlog == 0 for client in sample if client not in self._waits)
