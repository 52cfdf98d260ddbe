"""Placing an admitted upgrade of the general lane: in a room here, or relayed to the process that owns the room."""

import socket
from collections.abc import Awaitable

from scalesocket.admission.control import Admission
from scalesocket.admission.refusals import NO_DESCRIPTORS, Refusal
from scalesocket.placement.facts import Facts, Kind
from scalesocket.placement.placement import HERE, Here, RemoteOwner
from scalesocket.placement.stream import Stream
from scalesocket.server.connections import Connections
from scalesocket.server.hand_over import open_pair, reach_owner, refuse_busy

RelayedStream = tuple[socket.socket, bytes]
"""Our end of a stream on which messages are relayed, and what was read from it already."""


async def place_messages(connections: Connections, admission: Admission) -> tuple[Admission, RelayedStream | None] | Refusal:
    """Ask the owner of a room to take an upgrade of the general lane.

    Returns the admission, closed if the owner is busy, with the stream on which messages are relayed; or None instead of it, if
    the websocket is served here.
    """
    assert connections.placement is not None
    place = connections.placement.locate(admission.app.name, admission.room)
    if isinstance(place, Awaitable):
        place = await place
    if place is HERE:
        return admission, None
    if isinstance(place, RemoteOwner):
        generation = connections.gateway.reload_state.generation
        stream = await reach_owner(place, Facts.of(admission, Kind.RELAY, generation=generation), connections, admission)
        relayed = (stream.to_socket(), stream.early) if isinstance(stream, Stream) else stream
        return _relayed(connections, admission, relayed, was_held=True)
    try:
        ours, theirs = open_pair(connections.first_reserved)
    except OSError:
        return connections.gateway.admission.count(NO_DESCRIPTORS, admission.app)
    is_sent = False
    try:
        with theirs:
            generation = connections.gateway.reload_state.generation
            sent = place.hand_over(Facts.of(admission, Kind.RELAY, generation=generation), theirs.fileno())
        is_sent = sent if isinstance(sent, bool) else await sent
    finally:
        if not is_sent:
            ours.close()
    return _relayed(connections, admission, (ours, b"") if is_sent else None)


def _relayed(
    connections: Connections, admission: Admission, ours: RelayedStream | Here | None, *, was_held: bool = False
) -> tuple[Admission, RelayedStream | None] | Refusal:
    """Return what `place_messages` does. `ours`: None if the owner does not take the connection."""
    if ours is not None:
        return admission, None if ours is HERE else ours
    answer = refuse_busy(connections, admission, was_held=was_held)
    return answer if isinstance(answer, Refusal) else (answer, None)
