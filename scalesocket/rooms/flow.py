"""The flow from a room's backend to its clients: when its output is not read for a while, and who is too slow."""

import asyncio
from typing import TYPE_CHECKING, Final

from scalesocket.errors import TOO_SLOW
from scalesocket.rooms.client import Client

if TYPE_CHECKING:
    from scalesocket.rooms.room import Room

PACE_CHECK: Final = 1.0
"""Seconds after which a paced room must have made progress; else `send_buffer` judges its clients as they are."""


class Flow:
    """Decides for one room whether its backend is read.

    Two reasons to stop reading it. *Paced*: not one client has room in its high-water mark, so the backend is faster
    than the network and waits for the fastest client; a client behind that one is still judged by `send_buffer`.
    *Blocked*: `slow_client = "block"`, and somebody left more than `send_buffer` unsent.
    """

    __slots__ = ("_blockers", "_congested", "_delivered", "_is_paced", "_pace_timer", "_room", "slow")

    def __init__(self, room: "Room") -> None:
        """Watch over the output of `room`."""
        self._room = room
        self._congested = 0
        self._is_paced = False
        self._pace_timer: asyncio.TimerHandle | None = None
        self._delivered = 0
        self._blockers: dict[Client, asyncio.TimerHandle] = {}
        self.slow: list[Client] = []
        """Judged too slow, to be closed by `close_slow`."""

    def may_send(self, client: Client, messages: int) -> bool:
        """Judge a congested client before a write of so many messages, by what it left unsent (`slow_client`)."""
        app = self._room.app
        if client.unsent <= app.send_buffer + client.allowance:
            return True
        match app.slow_client:
            case "drop":
                self._room.counts.slow_dropped += messages
                return False
            case "block":
                self._block(client, app.stall_timeout)
                return True
            case "close":
                self.slow.append(client)
                return False

    def close_slow(self) -> None:
        """Close the clients judged too slow, after the write that showed it."""
        slow, self.slow = self.slow, []
        for client in slow:
            self._expel(client)

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
        self._unblock(client)
        self._update_pace()

    def joined(self) -> None:
        """Note that a client with an empty buffer came."""
        self._update_pace()

    def left(self, client: Client) -> None:
        """Forget a client."""
        if client.is_congested:
            client.is_congested = False
            self._congested -= 1
        self._unblock(client)
        self._pace()
        self._update_pace()

    def reset(self) -> None:
        """Forget every reason to wait, with its timers: the backend is gone."""
        for timer in self._blockers.values():
            timer.cancel()
        self._blockers.clear()
        self._set_paced(False)

    @property
    def is_waiting(self) -> bool:
        """Whether the backend must not be read now."""
        return self._is_paced or bool(self._blockers)

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

    def _block(self, client: Client, stall_timeout: float) -> None:
        if client not in self._blockers:
            timer = asyncio.get_running_loop().call_later(stall_timeout, self._expel, client)
            self._blockers[client] = timer
            self._room.read_backend(False)

    def _unblock(self, client: Client) -> None:
        timer = self._blockers.pop(client, None)
        if timer is not None:
            timer.cancel()
            self._room.read_backend(not self.is_waiting)

    def _expel(self, client: Client) -> None:
        self._room.counts.slow_clients += 1
        self._room.expel(client, TOO_SLOW)
