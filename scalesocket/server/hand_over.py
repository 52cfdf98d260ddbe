"""Handing an admitted connection over to the process that owns its room, before the websocket begins."""

import asyncio
import os
import socket
from collections.abc import Awaitable
from functools import partial
from typing import Final

import structlog

from scalesocket.admission.control import Admission
from scalesocket.admission.refusals import NO_DESCRIPTORS, OWNER_BUSY, Refusal
from scalesocket.config.units import KiB
from scalesocket.errors import SERVER_BUSY
from scalesocket.io.transport import SocketTransport
from scalesocket.placement.facts import Facts, Kind
from scalesocket.placement.placement import HERE, Begun, Here, Owner, Place, RemoteOwner
from scalesocket.placement.pump import Pump
from scalesocket.placement.stream import Stream, open_stream
from scalesocket.server.connections import Connections
from scalesocket.server.upgrade import answer_upgrade, close_websocket, complete_upgrade, refuse_upgrade
from scalesocket.server.waiting_upgrade import HeldUpgrade, PendingResult, WaitingUpgrade

log = structlog.get_logger("connections")

MAX_REST: Final = 16 * KiB
"""Bytes after the request head that travel with the facts. With more, the connection is pumped."""
PAIR_BUFFER: Final = 64 * KiB
"""Bytes that the kernel holds in each direction of a socket pair."""


def place_upgrade(transport: asyncio.Transport, connections: Connections, admission: Admission, key: str, rest: bytes) -> None:
    """Answer an admitted upgrade, here or in the process that owns the room. `rest`: the bytes that were read after the head."""
    assert connections.placement is not None
    place = connections.placement.locate(admission.app.name, admission.room)
    if place is HERE:
        complete_upgrade(transport, connections, admission, key, rest)
    elif isinstance(place, Awaitable):
        located = partial(_go_to, transport, connections, admission, key)
        WaitingUpgrade(transport, connections, PendingResult(place), rest, located)
    else:
        _go_to(transport, connections, admission, key, place, rest)


def _go_to(
    transport: asyncio.Transport, connections: Connections, admission: Admission, key: str, place: Place, rest: bytes
) -> None:
    if place is HERE:
        complete_upgrade(transport, connections, admission, key, rest)
    elif isinstance(place, RemoteOwner):
        StreamHandOver(transport, connections, admission, key).connect(place, rest)
    elif isinstance(transport, SocketTransport) and len(rest) <= MAX_REST:
        SocketHandOver(transport, connections, admission, key).begin_answered(place, rest)
    else:
        try:
            pair = open_pair(connections.first_reserved)
        except OSError:
            refuse_upgrade(transport, connections, connections.gateway.admission.count(NO_DESCRIPTORS, admission.app))
            return
        PairHandOver(transport, connections, admission, key, pair).begin(place, rest)


async def reach_owner(owner: RemoteOwner, facts: Facts, connections: Connections, admission: Admission) -> Stream | Here | None:
    """Ask an owner on another machine to serve a client (`RemoteOwner.connect`), without descriptors of the reserve."""
    stream = await owner.connect(facts, patience=admission.app.stall_timeout)
    if isinstance(stream, Stream) and stream.transport.fileno() >= connections.first_reserved:
        stream.close()
        return None
    return stream


def refuse_busy(connections: Connections, admission: Admission, *, was_held: bool = False) -> Refusal | Admission:
    """Count a connection that the owner of its room does not take now.

    A page cannot read the status of a failed handshake: it is admitted, to be closed with 1013. So is any client that `was_held`
    until a node takes its room: it has waited for long.
    """
    refusal = connections.gateway.admission.count(OWNER_BUSY, admission.app)
    return admission._replace(close=SERVER_BUSY) if was_held or "origin" in admission.request.headers else refusal


def open_pair(first_reserved: int) -> tuple[socket.socket, socket.socket]:
    """Open a socket pair with small buffers, and without descriptors of the reserve. Raises OSError."""
    ours, theirs = socket.socketpair()
    if max(ours.fileno(), theirs.fileno()) >= first_reserved:
        ours.close()
        theirs.close()
        raise OSError("file descriptors run out")
    for end in ours, theirs:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PAIR_BUFFER)
    return ours, theirs


class HandOver:
    """One connection on its way to the owner of its room. While the owner is busy, it waits and is not read."""

    was_held = False
    """Whether the client has waited for an owner, so that it is accepted also if there is none."""

    def __init__(self, transport: asyncio.Transport, connections: Connections, admission: Admission, key: str) -> None:
        self._transport = transport
        self._connections = connections
        self._admission = admission
        self._key = key

    def begin(self, owner: Owner, rest: bytes) -> None:
        """Send the connection. `rest`: the bytes that were read after the request head."""
        self._transport.pause_reading()
        self._settle(rest, self._send(owner, rest))

    def _settle(self, rest: bytes, sent: bool | Awaitable[bool]) -> None:
        """Finish, or wait until it is known whether the connection was sent."""
        if isinstance(sent, bool):
            self._finish(sent, rest)
        else:
            pending = PendingResult(sent)
            WaitingUpgrade(
                self._transport, self._connections, pending, rest, self._finish, is_paused=True, on_lost=self._withdraw
            )

    def _finish(self, is_sent: bool, rest: bytes) -> None:
        """Let the connection go, or refuse it."""
        if is_sent:
            self._let_go(rest)
            return
        self._withdraw()
        self._transport.resume_reading()
        self._refuse()

    def _refuse(self) -> None:
        """Tell the client that the owner does not take it."""
        answer = refuse_busy(self._connections, self._admission, was_held=self.was_held)
        if isinstance(answer, Refusal):
            refuse_upgrade(self._transport, self._connections, answer)
        else:
            complete_upgrade(self._transport, self._connections, answer, self._key, b"")

    def _facts(self, kind: Kind, rest: bytes = b"", window: int | None = None) -> Facts:
        generation = self._connections.gateway.reload_state.generation
        return Facts.of(self._admission, kind, generation=generation, key=self._key, rest=rest, window=window)

    def _send(self, owner: Owner, rest: bytes) -> bool | Awaitable[bool]:
        raise NotImplementedError

    def _let_go(self, rest: bytes) -> None:
        """The connection was sent."""
        raise NotImplementedError

    def _withdraw(self) -> None:
        """The connection was not sent, or is lost."""

    def _pump(self, stream: Stream, rest: bytes) -> None:
        """Copy bytes between the client and its owner."""
        connections = self._connections
        connections.websockets += 1
        Pump(
            self._transport,
            stream,
            rest,
            poller=connections.poller,
            passages=connections.passages,
            patience=self._admission.app.stall_timeout,
            on_lost=connections.forget_websocket,
        )


class SocketHandOver(HandOver):
    """Hands over the client's own connection."""

    _transport: SocketTransport
    _window: int | None = None
    """The window of permessage-deflate that the client was told, once it has the response 101."""

    def begin_answered(self, owner: Owner, rest: bytes) -> None:
        """Answer the client, unless the owner is behind or may still refuse it, then send the connection.

        With `max_connections_per_ip` the owner answers: others may take the last place of the address meanwhile.
        """
        if not owner.is_behind and self._connections.gateway.site.server.max_connections_per_ip is None:
            response, window = answer_upgrade(self._admission, self._key)
            try:
                if os.write(self._transport.fileno(), response) < len(response):  # never with the first bytes of a connection
                    raise BrokenPipeError
                self._window, self._key = window, ""
            except BlockingIOError:  # nothing was written: the owner answers
                pass
            except OSError:  # the client has left
                self._transport.abort()
                return
        self._transport.pause_reading()
        facts = self._facts(Kind.SOCKET, rest, self._window)
        owner.post(facts, self._transport.fileno(), partial(self._note_sent, rest))

    def _note_sent(self, rest: bytes, sent: bool | Awaitable[bool]) -> None:
        if not self._transport.is_closing():  # otherwise it was cut meanwhile
            self._settle(rest, sent)
        elif isinstance(sent, asyncio.Future):
            sent.cancel()

    def _refuse(self) -> None:
        if self._window is None:
            super()._refuse()
            return
        self._connections.gateway.admission.count(OWNER_BUSY, self._admission.app)
        close_websocket(self._transport, self._connections, SERVER_BUSY)

    def _let_go(self, rest: bytes) -> None:
        os.close(self._transport.detach())
        self._connections.forget(self._transport)


class PairHandOver(HandOver):
    """Hands over one end of a socket pair, and pumps between the other end and the client."""

    def __init__(
        self,
        transport: asyncio.Transport,
        connections: Connections,
        admission: Admission,
        key: str,
        pair: tuple[socket.socket, socket.socket],
    ) -> None:
        super().__init__(transport, connections, admission, key)
        self._ours, self._theirs = pair

    def _send(self, owner: Owner, rest: bytes) -> bool | Awaitable[bool]:
        with self._theirs:
            return owner.hand_over(self._facts(Kind.PAIR), self._theirs.fileno())

    def _let_go(self, rest: bytes) -> None:
        self._pump(open_stream(self._ours, poller=self._connections.poller), rest)

    def _withdraw(self) -> None:
        self._ours.close()


class StreamHandOver(HandOver):
    """Has an owner on another machine serve the client, and pumps between the connection to it and the client."""

    was_held = True
    _stream: Stream | None = None
    _begun: Begun | None = None

    def connect(self, owner: RemoteOwner, rest: bytes) -> None:
        """Connect to the owner. `rest`: the bytes that were read after the request head."""
        self._owner = owner
        self._pair_facts = self._facts(Kind.PAIR)
        self._held = HeldUpgrade(self._transport, self._connections, rest, on_lost=self._withdraw)
        self._begun = owner.begin(self._pair_facts, patience=self._admission.app.stall_timeout, done=self._end_begun)
        if self._begun is None:
            self._wait(rest)

    def _end_begun(self, stream: Stream | None) -> None:
        if self._transport.is_closing():
            if stream is not None:
                stream.close()
            return
        try:
            early = self._held.release()
            if stream is None:
                self._wait(early)
                return
            self._stream = stream
            if is_taken := stream.transport.fileno() < self._connections.first_reserved:
                self._begun = None
            self._finish(is_taken, early)
        except Exception:
            log.exception("handing a connection over failed")
            self._transport.abort()

    def _wait(self, rest: bytes) -> None:
        pending = PendingResult(self._open())
        WaitingUpgrade(self._transport, self._connections, pending, rest, self._decide, on_lost=self._withdraw)

    async def _open(self) -> bool | Here:
        stream = await reach_owner(self._owner, self._pair_facts, self._connections, self._admission)
        if isinstance(stream, Stream):
            self._stream = stream
            return True
        return HERE if stream is HERE else False

    def _decide(self, result: bool | Here, rest: bytes) -> None:
        if isinstance(result, Here):
            complete_upgrade(self._transport, self._connections, self._admission, self._key, rest)
        else:
            self._finish(result, rest)

    def _let_go(self, rest: bytes) -> None:
        assert self._stream is not None
        self._pump(self._stream, rest)

    def _withdraw(self) -> None:
        if self._begun is not None:
            self._begun.cancel()
        if self._stream is not None:
            self._stream.close()
