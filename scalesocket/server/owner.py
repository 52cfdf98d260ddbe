"""The owner's side of a hand-over: serves connections that another process has admitted, as if it had accepted them itself."""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from scalesocket.admission.control import Admission
from scalesocket.admission.refusals import NO_DESCRIPTORS, TOO_MANY_FROM_ADDRESS
from scalesocket.errors import APP_REMOVED, SERVER_BUSY, WORKER_REPLACED, Close
from scalesocket.io.transport import SocketTransport
from scalesocket.placement.facts import Delivery, Facts, Kind
from scalesocket.placement.inbox import Inbox
from scalesocket.server.connections import Connections
from scalesocket.server.express import ExpressClient
from scalesocket.server.upgrade import close_websocket, complete_upgrade, make_switch, refuse_upgrade, start_websocket
from scalesocket.wire.frames import Opcode, encode_frame

log = structlog.get_logger("placement")

MAX_HELD: Final = 1024
"""Connections that wait for an edit that their sender has applied already; more are closed with 1013."""
HOLD_TIMEOUT: Final = 5.0
"""Seconds that they wait."""


class Owner:
    """Takes the connections that arrive in the inbox of this process."""

    def __init__(self, connections: Connections, passage_client: "type[PassageClient] | None" = None) -> None:
        """Count them among `connections`, and let their clients join rooms of its gateway.

        `passage_client`: the kind of clients whose connection passes through another process.
        """
        self._passage_client = PassageClient if passage_client is None else passage_client
        self._connections = connections
        self._gateway = connections.gateway
        self._held: deque[tuple[float, Facts, int]] = deque()  # the oldest first, with the loop's time until which each waits
        self._timer: asyncio.TimerHandle | None = None
        self._gateway.reload_state.on_advance = self.release

    def take(self, facts: Facts, fd: int, first: bytes = b"") -> None:
        """Take ownership of a connection: hold it until its sender's site is in force here, then let its client join.

        `first`: what is written before everything else, to a connection that is not held.
        """
        if facts.generation > self._gateway.reload_state.generation:
            self._hold(facts, fd)
        else:
            self._serve(facts, fd, first=first)

    def release(self) -> None:
        """Serve the connections that waited for an edit that is applied now."""
        generation = self._gateway.reload_state.generation
        ready = [entry for entry in self._held if entry[1].generation <= generation]
        self._held = deque(entry for entry in self._held if entry[1].generation > generation)
        self._schedule()
        for _, facts, fd in ready:
            self._serve(facts, fd)

    def count_lost(self) -> None:
        """Count a connection that was lost because there was no descriptor for it."""
        self._gateway.refusals[NO_DESCRIPTORS.reason] += 1

    def close(self) -> None:
        """Drop the connections that wait."""
        self._gateway.reload_state.on_advance = None
        if self._timer is not None:
            self._timer.cancel()
        while self._held:
            os.close(self._held.popleft()[2])

    # --- Waiting for an edit

    def _hold(self, facts: Facts, fd: int) -> None:
        if len(self._held) >= MAX_HELD:
            self._serve(facts, fd, SERVER_BUSY)
            return
        self._held.append((self._connections.loop.time() + HOLD_TIMEOUT, facts, fd))
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._connections.loop.call_at(self._held[0][0], self._give_up) if self._held else None

    def _give_up(self) -> None:
        now = self._connections.loop.time()
        while self._held and self._held[0][0] <= now:
            _, facts, fd = self._held.popleft()
            log.warning("connection closed: its sender has a newer site", app=facts.app, generation=facts.generation)
            self._serve(facts, fd, SERVER_BUSY)
        self.release()

    # --- Serving

    def _serve(self, facts: Facts, fd: int, close: Close | None = None, *, first: bytes = b"") -> None:
        """Put a transport on a connection, and complete its upgrade. `close`: how it is closed instead of joining."""
        connections = self._connections
        if not connections.may_open(fd):
            with suppress(OSError):
                os.write(fd, first)
            os.close(fd)
            return
        transport = SocketTransport(
            fd,
            facts.request.peer,
            _Arrival(connections),
            poller=connections.poller,
            is_blocking=facts.kind is not Kind.SOCKET,  # the mode travels with the client's own connection
        )
        try:
            if first:
                transport.write_later(first)
            if fd >= connections.first_reserved:
                self._refuse(transport, facts)
            else:
                self._answer(transport, facts, close)
        except Exception:
            log.exception("taking a connection over failed", app=facts.app, room=facts.room)
            transport.abort()

    def _refuse(self, transport: SocketTransport, facts: Facts) -> None:
        """Answer a connection that has one of the last descriptors."""
        refusal = self._gateway.admission.count(NO_DESCRIPTORS)
        if _is_answered(facts):
            close_websocket(transport, self._connections, SERVER_BUSY)
        else:
            refuse_upgrade(transport, self._connections, refusal)

    def _answer(self, transport: SocketTransport, facts: Facts, close: Close | None) -> None:
        connections, kind = self._connections, facts.kind
        app = self._gateway.site.apps.get(facts.app)
        if app is None:
            if not _is_answered(facts):
                transport.write(make_switch(facts.key, protocol_line(facts.subprotocol)))
            control = self._gateway.admission
            close_websocket(transport, connections, control.farewell if control.is_closed else APP_REMOVED)
            return
        identity = None if facts.who is None else facts.who.identity()
        admission = Admission(app, facts.room, facts.request, self._gateway.admission, facts.subprotocol, identity, close)
        client = ExpressClient if kind is Kind.SOCKET else self._passage_client
        if _is_answered(facts):
            start_websocket(transport, connections, admission, facts.rest, window=facts.window or 0, make_client=client)
        elif close is None and self._is_address_full(facts):
            refuse_upgrade(transport, connections, self._gateway.admission.count(TOO_MANY_FROM_ADDRESS, app))
        else:
            complete_upgrade(transport, connections, admission, facts.key, facts.rest, client)

    def _is_address_full(self, facts: Facts) -> bool:
        """Whether others have taken the last place of the client's address since its upgrade was admitted."""
        limit = self._gateway.site.server.max_connections_per_ip
        return limit is not None and self._gateway.admission.occupancy.addresses.is_full(facts.request.peer, limit)


def _is_answered(facts: Facts) -> bool:
    """Whether the client has its answer, so that the websocket has begun."""
    return facts.window is not None or facts.kind is Kind.RELAY


class _Arrival(asyncio.Protocol):
    """The protocol of a connection that was taken over, until its upgrade is answered."""

    __slots__ = ("_connections", "_transport")

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection."""
        assert isinstance(transport, SocketTransport)
        self._transport = transport
        self._connections.transports.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        self._connections.forget(self._transport)


class PassageClient(ExpressClient):
    """A client whose connection passes through another process, which may stop."""

    __slots__ = ()

    farewell = WORKER_REPLACED
    """How a client is closed whose room stays, when the other process stops."""

    def eof_received(self) -> None:
        """Leave the room. If the client is still there, and only the other process stops, it receives a close frame."""
        if not self._is_closing:
            self._transport.write(encode_frame(self.farewell.payload(), Opcode.CLOSE))
        super().eof_received()


def protocol_line(subprotocol: str | None) -> str:
    """Return the line of a response with the subprotocol, if any."""
    return "" if subprotocol is None else f"Sec-WebSocket-Protocol: {subprotocol}\r\n"


def open_inbox(sock: socket.socket, connections: Connections, on_delivery: Callable[[Delivery, int], None]) -> "OpenInbox":
    """Serve the connections that arrive in the inbox whose receiving end is `sock`. The caller closes `sock` at the end.

    `on_delivery` takes ownership of the descriptors that the supervisor sends.
    """
    return OpenInbox(sock, Owner(connections), connections, on_delivery)


class OpenInbox:
    """The inbox of this process, and what it owns."""

    def __init__(
        self, sock: socket.socket, owner: Owner, connections: Connections, on_delivery: Callable[[Delivery, int], None]
    ) -> None:
        self._owner = owner
        self._inbox = Inbox(sock, connections.poller, on_facts=owner.take, on_delivery=on_delivery, on_lost=owner.count_lost)

    def stop(self) -> None:
        """Take nothing more: what arrives from now on waits for the successor of this process. Calls may repeat."""
        self._inbox.stop()

    def close(self) -> None:
        """Stop, and drop connections that wait for an edit."""
        self._inbox.stop()
        self._owner.close()
