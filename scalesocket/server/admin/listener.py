"""The listener of the admin surface, with connections and an HTTP server of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from hypercorn.typing import ASGIFramework

from scalesocket.config.model import Server
from scalesocket.gateway import Gateway
from scalesocket.io.descriptors import first_last, first_private
from scalesocket.io.poller import Poller
from scalesocket.server.addresses import ListenError
from scalesocket.server.admin.lane import AdminLane
from scalesocket.server.closing import LingeringClose
from scalesocket.server.connections import Connections
from scalesocket.server.hypercorn.server import HypercornServer, open_hypercorn
from scalesocket.server.listen import Change, Listeners

MAX_CONNECTIONS: Final = 64
"""Connections to the admin surface at a time. They count apart from those of clients, which may be at their limit."""
PRIVATE: Final = 0o600
"""The mode of the unix socket's file."""


class AdminConnections(Connections):
    """The connections of the admin surface."""

    serves_websockets = False

    def __init__(self, gateway: Gateway, hypercorn: HypercornServer, poller: Poller) -> None:
        """Start without any, and with descriptors that no client can hold."""
        super().__init__(gateway, hypercorn, poller)
        self.first_reserved = first_private()

    def _first_kept(self) -> int:
        return first_last()

    def has_capacity(self) -> bool:
        """Whether one more connection may be accepted.

        If there are MAX_CONNECTIONS, one is cut for it: one that was refused, else the oldest that has sent no request with the
        token. So peers without it, whatever they send, cannot lock out the operator.
        """
        if self._count() < MAX_CONNECTIONS or self._cut_refused():
            return True
        return self.hypercorn.cut_stranger(before=self.head_deadlines.oldest_at) or self.head_deadlines.cut_oldest()

    def _cut_refused(self) -> bool:
        for transport in self.transports:
            if isinstance(transport.get_protocol(), LingeringClose) and not transport.is_closing():
                transport.abort()
                return True
        return False


@dataclass(frozen=True, slots=True)
class AdminListener:
    """The admin surface of a service. `async with open_admin(…)` makes one."""

    lane: AdminLane
    connections: Connections
    listeners: Listeners

    async def prepare(self, server: Server) -> Change:
        """Bind the address of an edited `server.admin`; see `Listeners.prepare`. Raises ListenError."""
        binds = () if server.admin is None else (server.admin.bind,)
        try:
            change = await self.listeners.prepare(server.model_copy(update={"bind": binds, "tls": None}))
        except ListenError as error:
            raise ListenError(str(error).replace("server.bind:", "server.admin.bind:", 1)) from error
        try:
            make_private(change)
        except OSError as error:
            change.roll_back()
            raise ListenError(f"server.admin.bind: {(error.strerror or str(error)).lower()}") from error
        return change


def make_private(change: Change) -> None:
    """Let only the user of the server open the unix sockets that a change has bound. They do not listen yet. Raises OSError."""
    for listener in change.added:
        if not listener.is_inherited and listener.address.port is None:
            Path(str(listener.address.name)).chmod(PRIVATE)


@asynccontextmanager
async def open_admin(lane: AdminLane, server: Server, gateway: Gateway, poller: Poller) -> AsyncIterator[AdminListener]:
    """Serve the admin surface, if `server` has one, until the block ends. Raises ListenError.

    `gateway`: whose settings its connections have, and which counts those that are refused.
    """
    async with open_hypercorn(cast(ASGIFramework, lane), gateway) as hypercorn:
        connections = AdminConnections(gateway, hypercorn, poller)
        with closing(connections), closing(Listeners(connections, surface="admin")) as listeners:
            admin = AdminListener(lane, connections, listeners)
            change = await admin.prepare(server)
            change.commit()
            if len(listeners.addresses) < len(change.listeners):
                raise ListenError("server.admin.bind: can't listen at this address (see the log)")
            yield admin
