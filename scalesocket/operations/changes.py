"""The operations that change rooms and clients: kick, stop, restart, say and drain."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio
import msgspec

from scalesocket.control.messages import Drain, Kick, Outcome, Restart, Say, SayOutcome, Stop
from scalesocket.edge.client import Client
from scalesocket.errors import MAX_REASON, ROOM_RESTARTED, ROOM_STOPPED, BackendError, Close, CloseCode
from scalesocket.operations.lookup import Certainty, NotFoundError, OperationError, find_rooms
from scalesocket.operations.running import Running
from scalesocket.rooms.room import Room
from scalesocket.rooms.state import LISTED, State

CLOSES_PER_SLICE: Final = 16
"""Clients closed in one event-loop iteration: half a millisecond."""
MAX_WAIT: Final = 3600.0
"""Seconds that an operation may wait for the end of rooms."""
PROGRAM_CODES: Final = range(4000, 5000)
"""Close codes for private use (RFC 6455 7.4.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """Rooms that an operation has begun to close."""

    outcome: Outcome
    rooms: Sequence[Room] = field(repr=False)

    async def wait_ended(self, seconds: float) -> Outcome:
        """Wait until the rooms have ended, at most `seconds`; return the outcome, with the number of those that have not."""
        with anyio.move_on_after(seconds):
            for room in self.rooms:
                await room.wait_ended()
        pending = sum(room.state is not State.ENDED for room in self.rooms)
        return msgspec.structs.replace(self.outcome, pending=pending)


async def kick(running: Running, request: Kick) -> Outcome:
    """Close clients by id or user. Raises OperationError for an invalid code, NotFoundError if there is no such client."""
    close = _make_close(request.code, request.reason)
    if (request.id is None) == (request.user is None):
        raise OperationError("whom to kick: give either the id of a client or a user")
    rooms = find_rooms(running.gateway, request.app, request.room)
    matching = [(room, client) for pool, room in rooms for client in pool.clients_of(room).values() if _is_meant(client, request)]
    if not matching:
        who = f"client {request.id}" if request.user is None else f"client of the user {request.user!r}"
        raise NotFoundError(f"there is no {who} in {request.app}/{request.room}", certainty=Certainty.NO_SUCH_CLIENT)
    for number, (room, client) in enumerate(matching, start=1):
        if client.id in room.clients:  # else it left during a pause
            room.counts.kicked += 1
            room.expel(client, close)
        if number % CLOSES_PER_SLICE == 0:
            await asyncio.sleep(0)
    return Outcome(rooms=len({room for room, _ in matching}), clients=len(matching))


async def stop(running: Running, request: Stop) -> Closing:
    """Stop rooms. Raises NotFoundError, and OperationError for an invalid `wait`."""
    return _close(running, request, ROOM_STOPPED)


async def restart(running: Running, request: Restart) -> Closing:
    """Restart rooms. Raises NotFoundError, and OperationError for an invalid `wait`; an app without open rooms is no error."""
    return _close(running, request, ROOM_RESTARTED)


async def say(running: Running, request: Say) -> SayOutcome:
    """Route a record in rooms. Raises NotFoundError, and OperationError if the record cannot be routed."""
    if not request.text:
        raise OperationError("the text is empty")
    try:
        text = request.text.encode()
    except UnicodeEncodeError as error:
        raise OperationError("the text is not valid Unicode") from error
    rooms = [room for _, room in find_rooms(running.gateway, request.app, request.room, joinable=True)]
    delivered = dropped = 0
    for room in rooms:
        if room.is_stopped:  # since the last pause
            continue
        if room.state is State.WAITING:
            raise OperationError(f"the room {room.name!r} waits for the end of its predecessor (try again)")
        sent_before, dropped_before = room.counts.messages_out, room.counts.messages_dropped
        try:
            room.output.say(text)
        except BackendError as error:
            raise OperationError(f"the text cannot be routed: {error}") from error
        delivered += room.counts.messages_out - sent_before
        dropped += room.counts.messages_dropped - dropped_before
        await asyncio.sleep(0)
    return SayOutcome(rooms=len(rooms), delivered=delivered, dropped=dropped)


async def drain(running: Running, request: Drain) -> Closing:
    """Drain an app, or the site. Raises NotFoundError, and OperationError for an invalid `wait`."""
    _check_wait(request.wait)
    gateway = running.gateway
    rooms = [room for _, room in find_rooms(gateway, request.app, None)]
    outcome = _count([room for room in rooms if not room.is_stopped])
    if request.app is None:
        gateway.start_drain()
    elif request.app in gateway.pools:  # else it was removed, and its rooms are being closed
        gateway.drain_app(request.app)
    return Closing(outcome=outcome, rooms=rooms)


def _close(running: Running, request: Stop | Restart, close: Close) -> Closing:
    """Close the rooms that can be joined. One that waits also waits for those that are stopping already."""
    _check_wait(request.wait)
    found = find_rooms(running.gateway, request.app, request.room, joinable=request.wait is None)
    rooms = [room for _, room in found]
    closing = Closing(outcome=_count(rooms), rooms=rooms)
    running.gateway.close_rooms([room for room in rooms if room.state in LISTED], close)
    return closing


def _count(rooms: Sequence[Room]) -> Outcome:
    return Outcome(rooms=len(rooms), clients=sum(len(room.clients) for room in rooms))


def _check_wait(wait: float | None) -> None:
    if wait is not None and not 0 <= wait <= MAX_WAIT:
        raise OperationError(f"invalid time to wait: {wait:g} s (0 to {MAX_WAIT:.0f} s)")


def _is_meant(client: Client, request: Kick) -> bool:
    if request.user is None:
        return client.id == request.id
    return client.identity is not None and client.identity.user == request.user


def _make_close(code: int, reason: str) -> Close:
    if code != CloseCode.NORMAL and code not in PROGRAM_CODES:
        raise OperationError(f"invalid close code {code} (1000, or 4000 to 4999)")
    if len(reason.encode(errors="replace")) > MAX_REASON:
        raise OperationError(f"the reason is longer than {MAX_REASON} bytes")
    return Close(code, reason)
