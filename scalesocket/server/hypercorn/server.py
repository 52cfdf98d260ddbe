"""The connections of the general lane: Hypercorn serves HTTP/1.1, HTTP/2 and their websockets on transports accepted here.

Starts one task for each connection, in a task group it owns, and ends them all when it is closed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import EventWrapper
from hypercorn.typing import ASGIFramework

from scalesocket.cleanup import logged_faults
from scalesocket.config.units import KiB
from scalesocket.io.transport import SocketTransport
from scalesocket.server.hypercorn.config import KEEP_ALIVE, SiteConfig
from scalesocket.server.hypercorn.context import ConnectionContext
from scalesocket.server.hypercorn.patches import patch_hypercorn
from scalesocket.server.hypercorn.state import CUT, FIRST_REQUEST, NEW_WEBSOCKET, PEER, PROXIED, RESERVED, TRUST
from scalesocket.server.hypercorn.stream_protocol import StreamProtocol, StreamWriter, cut, enable_keep_alive
from scalesocket.status import HasSite

log = structlog.get_logger("http")

READ_AHEAD: Final = 64 * KiB
"""Bytes of a connection that are read before Hypercorn asks for them."""
WRITE_BEHIND: Final = 16 * KiB
"""Bytes that a transport may hold for a peer before Hypercorn waits. Since Python 3.12 asyncio adds up all pieces it holds at
each write: 64 KiB in frames of 2 bytes took it 18 s."""


class HypercornServer:
    """Serves transports with an ASGI app. `async with open_hypercorn(…)` makes one."""

    def __init__(self, app: ASGIFramework, running: HasSite, tasks: TaskGroup) -> None:
        patch_hypercorn()
        self._app = ASGIWrapper(app)
        self._tasks = tasks
        self._stopped = EventWrapper()
        self._config = SiteConfig(running)
        self._no_connections = asyncio.Event()
        self._connections: dict[asyncio.BaseTransport, ConnectionContext] = {}

    @property
    def open_connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def take_over(
        self,
        transport: asyncio.Transport,
        head: bytes,
        *,
        peer: tuple[str, int] | None = None,
        is_proxied: bool = False,
        is_reserved: bool = False,
    ) -> None:
        """Serve a connection from which `head` was already read. Replaces the transport's protocol, and closes it at the end.

        `peer`: the client's address if a proxy reported another one than the socket's. `is_proxied`: a PROXY header was read.
        `is_reserved`: close it after one response. The transport must not have paused reading.
        """
        # A writer's __del__ closes its transport, so the writer must live as long as the task that serves it.
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_AHEAD, loop=loop)
        context = ConnectionContext(self._stopped)
        protocol = StreamProtocol(reader, context)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        reader.feed_data(head)
        transport.set_write_buffer_limits(high=WRITE_BEHIND)
        if isinstance(transport, SocketTransport):
            transport.gather_writes()  # head and body of a response are sent together
        writer = StreamWriter(transport, protocol, reader, loop)
        enable_keep_alive(transport)
        self._connections[transport] = context
        self._no_connections.clear()
        state: dict[str, object] = {PEER: peer, PROXIED: is_proxied, RESERVED: is_reserved}
        self._tasks.start_soon(self._serve, reader, writer, context, state, name="hypercorn")

    async def stop(self, grace: float) -> None:
        """Close idle connections now and others after their response; after `grace` seconds cut those that are left."""
        await self._stopped.set()
        for context in tuple(self._connections.values()):
            await context.terminated.set()
        with anyio.move_on_after(grace):
            while self._connections:
                await self._no_connections.wait()
        self.cut_all()

    def cut_stranger(self, *, before: float) -> bool:
        """Cut the oldest connection that is not trusted, if it began `before` this time of the loop; otherwise return False."""
        for transport, context in self._connections.items():
            if not context.is_trusted and not transport.is_closing():
                if context.started_at > before:
                    return False
                cut(transport)
                return True
        return False

    def cut_all(self) -> None:
        """Cut every connection. The task of a peer that does not read its response would otherwise not end."""
        for transport in tuple(self._connections):
            with logged_faults("cutting a connection"):
                cut(transport)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ConnectionContext, state: dict[str, object]
    ) -> None:
        loop = asyncio.get_running_loop()
        first_request = asyncio.Event()
        state |= {CUT: partial(cut, writer.transport), FIRST_REQUEST: first_request, NEW_WEBSOCKET: context.add_websocket}
        state[TRUST] = context.trust
        deadline = loop.call_later(KEEP_ALIVE, cut_unless, first_request, writer.transport)
        try:
            await TCPServer(self._app, loop, self._config, context, state, reader, writer)
        except Exception as error:  # the border to foreign code: an odd frame of a peer may raise anything
            log.debug("connection failed", error=repr(innermost(error)))
        finally:
            deadline.cancel()
            cut(writer.transport)  # no effect after a proper close; otherwise the connection must not outlive its task
            self._connections.pop(writer.transport, None)
            if not self._connections:
                self._no_connections.set()


@asynccontextmanager
async def open_hypercorn(app: ASGIFramework, running: HasSite, *, grace: float = 1.0) -> AsyncIterator[HypercornServer]:
    """Serve connections until the block ends; then they have `grace` seconds to finish their responses."""
    async with anyio.create_task_group() as tasks:
        hypercorn = HypercornServer(app, running, tasks)
        try:
            yield hypercorn
        finally:
            with anyio.CancelScope(shield=True):
                await hypercorn.stop(grace)
            tasks.cancel_scope.cancel()


def cut_unless(first_request: asyncio.Event, transport: asyncio.BaseTransport) -> None:
    """Cut a connection without a request: Hypercorn waits without a deadline after the preface of HTTP/2."""
    if not first_request.is_set():
        cut(transport)


def innermost(error: BaseException) -> BaseException:
    """Return the first error inside nested exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
