"""The deadlines of one room, of its backend and of its clients."""

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import structlog

from scalesocket.config.model import App
from scalesocket.edge.client import Client
from scalesocket.errors import BACKEND_DEAF, BACKEND_ENDED, CLIENT_IDLE, INTERNAL_ERROR, LIFETIME_REACHED, PONG_MISSING, Close
from scalesocket.rooms.silence import Silence

if TYPE_CHECKING:
    from scalesocket.rooms.room import Room

log = structlog.get_logger("room")

CLIENTS_AT_ONCE: Final = 16
"""Clients checked between two breaks: 0.15 ms if each is due for a ping."""
JITTER: Final = 0.2
"""The part of `ping_interval` by which pings may come early, so that clients that joined together are not pinged together."""
GOLDEN: Final = 0.6180339887498949
"""The golden ratio, whose multiples are spread evenly over the unit interval."""


class Deadlines:
    """Stops one room, or closes one of its clients, when the time is up.

    The room's own, `idle_timeout` and `max_lifetime`, are timers. Those of its clients and its backend are looked at by
    `check`, now and then: they move with every message, and a timer for each would cost more than the message.
    """

    __slots__ = ("_idle_timer", "_lifetime_timer", "_opened_at", "_room", "_silence", "_taken", "_taken_at")

    def __init__(self, room: "Room") -> None:
        """Watch over `room`."""
        self._room = room
        self._silence = Silence(room)
        self._opened_at: float | None = None
        self._taken = 0  # of the backend's input, as `check` saw it last ...
        self._taken_at = 0.0  # ... and since when it has not changed
        self._idle_timer: asyncio.TimerHandle | None = None
        self._lifetime_timer: asyncio.TimerHandle | None = None

    def begin(self, now: float) -> None:
        """A backend begins, and has taken nothing yet. With the first one the lifetime of the room begins."""
        self._taken, self._taken_at = 0, now
        if self._opened_at is None:
            self._opened_at = now
            self._arm_lifetime()

    def await_another(self) -> None:
        """The backend has ended, and another follows."""
        self._silence.begin_again()

    def check(self, clock: Callable[[], float]) -> Iterator[None]:
        """Check the backend and the clients by `clock`, with a break after every few clients."""
        room = self._room
        if room.last_word is not None:  # it ends, which has deadlines of its own
            return
        if self._is_deaf(clock()):
            log.error(
                "backend does not read, its room ends", app=room.app.name, room=room.name, stall_timeout=room.app.stall_timeout
            )
            room.stop(BACKEND_DEAF)
            return
        self._silence.check(clock())
        clients = list(room.clients.values())
        for first in range(0, len(clients), CLIENTS_AT_ONCE):
            if first:
                yield
            now = clock()
            for client in clients[first : first + CLIENTS_AT_ONCE]:
                self._check_client(client, now)

    def _check_client(self, client: Client, now: float) -> None:
        room = self._room
        try:
            if client.id in room.clients:  # it may have left during a break
                close = judge(client, room.app, now)
                if close is not None:
                    room.expel(client, close)
        except Exception:
            log.exception("checking a client failed", app=room.app.name, room=room.name, client=client.id)
            room.expel(client, INTERNAL_ERROR)

    def apply(self) -> None:
        """Take on live changes of the room's settings. A room that lingers does so anew."""
        if self._idle_timer is not None:
            self.linger()
        self._arm_lifetime()

    def linger(self) -> None:
        """Stop the room in `idle_timeout`, unless `stop_lingering` comes first."""
        self.stop_lingering()
        room = self._room
        self._idle_timer = asyncio.get_running_loop().call_later(room.app.idle_timeout, room.stop, BACKEND_ENDED)

    def stop_lingering(self) -> None:
        """Let `idle_timeout` run no more: somebody came. Calls may repeat."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def end(self) -> None:
        """Let nothing run any more: the room has ended."""
        self.stop_lingering()
        self._stop_lifetime()

    def _is_deaf(self, now: float) -> bool:
        """Whether input has waited for `stall_timeout` and the backend took not a byte of it."""
        room = self._room
        unsent = room.unsent
        taken = room.written - unsent
        if not unsent or taken != self._taken or room.is_output_waiting:  # then it may stand still for our sake
            self._taken, self._taken_at = taken, now
        return now - self._taken_at >= room.app.stall_timeout

    def _arm_lifetime(self) -> None:
        self._stop_lifetime()
        lifetime = self._room.app.max_lifetime
        if lifetime is not None and self._opened_at is not None:
            loop = asyncio.get_running_loop()
            self._lifetime_timer = loop.call_at(self._opened_at + lifetime, self._room.stop, LIFETIME_REACHED)

    def _stop_lifetime(self) -> None:
        if self._lifetime_timer is not None:
            self._lifetime_timer.cancel()
            self._lifetime_timer = None


def judge(client: Client, app: App, now: float) -> Close | None:
    """Say why a client is to be closed, if it said nothing or answered no ping for too long; ping it if it is time to."""
    is_unanswered = client.last_ping_at > client.last_received_at
    if client.held:
        client.last_message_at = client.pong_excused_at = now
    elif is_unanswered and client.unsent:
        client.pong_excused_at = now
    if app.client_idle_timeout is not None and now - client.last_message_at >= app.client_idle_timeout:
        return CLIENT_IDLE
    if is_unanswered and client.pong_excused_at != now:
        if now - max(client.last_ping_at, client.pong_excused_at) >= app.ping_timeout:
            return PONG_MISSING
    elif now - max(client.last_received_at, client.last_ping_at) >= app.ping_interval * (1 - JITTER * (client.id * GOLDEN % 1)):
        # Also when the last ping is unanswered: a vanished peer that is not read shows only in what is sent.
        client.last_ping_at = now
        client.ping()
    return None
