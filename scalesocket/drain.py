"""Closes many clients gradually, so that they do not all reconnect at the same moment."""

import math
from collections.abc import Sequence
from typing import Final

import anyio

from scalesocket.errors import Close
from scalesocket.rooms.containment import contain_exceptions
from scalesocket.rooms.room import Room

CLOSES_PER_SECOND: Final = 1000
"""Websockets closed in a second, unless `drain_timeout` demands more."""
SLICE: Final = 0.02
"""Seconds between two groups of closes."""


def retire_rooms(rooms: Sequence[Room], close: Close) -> None:
    """Admit no more clients to these rooms."""
    for room in rooms:
        with contain_exceptions(room):
            room.retire(close)


async def drain_rooms(rooms: Sequence[Room], close: Close, *, timeout: float) -> None:
    """Close the clients of retired rooms over at most `timeout` seconds, then stop the rooms. Few clients are closed at once."""
    clients = [(room, client) for room in rooms for client in room.clients.values()]
    deadline, closed = anyio.current_time() + timeout, 0
    while closed < len(clients):
        if closed:
            await anyio.sleep(SLICE)
        due, time_left = len(clients), deadline - anyio.current_time()
        if time_left > SLICE:  # computed anew for each slice, because the closes take time too
            due = closed + math.ceil(max(CLOSES_PER_SECOND * SLICE, (len(clients) - closed) * SLICE / time_left))
        for room, client in clients[closed:due]:
            with contain_exceptions(room):
                if client.id in room.clients:
                    room.counts.drained += 1
                    room.expel(client, close)
        closed = due
    for room in rooms:
        with contain_exceptions(room):
            room.stop(close)
