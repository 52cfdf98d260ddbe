"""Connections for Hypercorn: HTTP/1.1, HTTP/2 and the websockets in them, on transports the door has accepted.

Starts one task for each connection, in a task group it owns, and ends them all when it is closed.
"""

import asyncio
import logging
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, cast

import anyio
import structlog
from anyio.abc import TaskGroup
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import EventWrapper, WorkerContext
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework

from scalesocket.cleanup import logged_faults
from scalesocket.config.model import App
from scalesocket.config.units import KiB
from scalesocket.io.transport import SocketTransport
from scalesocket.server.hypercorn.http2 import CUT, install_protocols
from scalesocket.server.hypercorn.idle import IdleEnd
from scalesocket.server.hypercorn.no_deflate import decline_deflate
from scalesocket.server.hypercorn.refused_upgrades import end_refused_upgrades
from scalesocket.server.kernel import count_queued
from scalesocket.status import SiteView

log = structlog.get_logger("http")

KEEP_ALIVE: Final = 15.0
"""Seconds an idle connection stays open; also what a client has for the head of its next request."""
MAX_HEAD: Final = 32 * KiB
"""Bytes of a request head (HTTP/1.1), or of its headers inflated (HTTP/2)."""
MAX_STREAMS: Final = 100
"""Requests and websockets at a time on one HTTP/2 connection."""
READ_AHEAD: Final = 64 * KiB
"""Bytes of a connection read before Hypercorn asks for them."""
WRITE_BEHIND: Final = 16 * KiB
"""Bytes a transport may hold for a peer before Hypercorn waits. Since Python 3.12 asyncio adds up all pieces it holds at
each write: 64 KiB in frames of 2 bytes took it 18 s."""
PROBES: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120_000}
"""How the kernel finds dead peers: seconds of silence before a probe, seconds between probes, unanswered probes, and
milliseconds for which nothing that was sent is taken."""

STALL_TIMEOUT: Final = 10.0
"""Seconds a peer that has ended its side may take nothing of what is unsent, where no app says otherwise."""

SECOND_LOOK: Final = 0.5
"""Seconds until it is seen again whether a websocket of a lost connection has ended."""

ASKED: Final = "scalesocket.asked"
"""Key in the scope's `state`: an event that is set by the first request or websocket of the connection."""
PACE: Final = "scalesocket.pace"
"""Key in the scope's `state`: takes the app of a new websocket, for its `ping_interval` and `stall_timeout`."""
PEER: Final = "scalesocket.peer"
"""Key in the scope's `state`: the address a proxy reported, or None."""
PROXIED: Final = "scalesocket.proxied"
"""Key in the scope's `state`: whether a PROXY header stood before the first request."""


class SiteConfig(Config):
    """Hypercorn's settings, those that come from the site always as it is now."""

    keep_alive_timeout = KEEP_ALIVE
    h11_max_incomplete_size = MAX_HEAD
    h2_max_header_list_size = MAX_HEAD
    h2_max_concurrent_streams = MAX_STREAMS
    include_server_header = False
    errorlog = logging.getLogger("hypercorn.error")

    def __init__(self, running: SiteView) -> None:
        self._running = running

    @property
    def websocket_max_message_size(self) -> int:  # type: ignore[override]
        """The largest `max_message`, read when a websocket opens; each app's own is checked by its sessions."""
        return max((app.max_message for app in self._running.site.apps.values()), default=0)

    @property
    def websocket_ping_interval(self) -> float | None:  # type: ignore[override]
        """The shortest `ping_interval`, read before each ping."""
        return min((app.ping_interval for app in self._running.site.apps.values()), default=None)


class Surroundings(WorkerContext):
    """What Hypercorn asks of the worker it runs in, for one connection."""

    def __init__(self, terminated: EventWrapper) -> None:
        super().__init__(None)
        self.terminated = IdleEnd(terminated)
        self.lost = asyncio.Event()
        self.stall_timeout = STALL_TIMEOUT
        self._pace = math.inf

    def keep_pace(self, app: App) -> None:
        """Take on the pace of a new websocket: pings at the shortest `ping_interval` of the connection, and `stall_timeout`."""
        self._pace = min(self._pace, app.ping_interval)
        self.stall_timeout = app.stall_timeout

    async def sleep(self, wait: float) -> None:  # type: ignore[override]
        """Wait between two pings of a websocket: no longer than its peer is there, or Hypercorn would wait for the next one."""
        wait = self._pace if self._pace < math.inf else wait
        if self.lost.is_set():  # woken once, and still not closed: the rest of the peer's messages waits to be read
            await asyncio.sleep(min(wait, SECOND_LOOK))
            return
        with anyio.move_on_after(wait):
            await self.lost.wait()


class Protocol(asyncio.StreamReaderProtocol):
    """asyncio's streams, which record that the peer is gone.

    Hypercorn waits for a peer to take what was sent, also for one that has ended its side. So one that takes nothing for
    `stall_timeout` after that is cut.
    """

    def __init__(self, reader: asyncio.StreamReader, surroundings: Surroundings) -> None:
        super().__init__(reader)
        self._surroundings = surroundings
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, on a transport."""
        super().connection_made(transport)
        self._own_transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the reading and the writing, and what sleeps for this connection."""
        super().connection_lost(exc)
        self._surroundings.lost.set()
        if self._timer is not None:
            self._timer.cancel()

    def eof_received(self) -> bool | None:
        """The peer sends nothing more: the same, in the usual order."""
        keep_open = super().eof_received()
        self._surroundings.lost.set()
        self._look(math.inf, 0.0)
        return keep_open

    def _look(self, queued: float, deadline: float) -> None:
        """Cut the connection if the peer has taken nothing until `deadline`."""
        transport, timeout = self._own_transport, self._surroundings.stall_timeout
        loop = asyncio.get_running_loop()
        sock = transport.get_extra_info("socket")
        now_queued = transport.get_write_buffer_size() + (count_queued(sock) if sock is not None else 0)
        if now_queued < queued:
            queued, deadline = now_queued, loop.time() + timeout
        elif queued and loop.time() >= deadline:
            cut(transport)
            return
        self._timer = loop.call_later(timeout / 4, self._look, queued, deadline)


class HypercornServer:
    """Serves transports with an ASGI app. `async with open_hypercorn(…)` makes one."""

    def __init__(self, app: ASGIFramework, running: SiteView, tasks: TaskGroup) -> None:
        self._app = ASGIWrapper(app)
        self._tasks = tasks
        self._terminated = EventWrapper()
        self._config = SiteConfig(running)
        decline_deflate()
        install_protocols()
        end_refused_upgrades()
        self._idle = asyncio.Event()
        self._connections: dict[asyncio.BaseTransport, Surroundings] = {}

    @property
    def open_connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def take_over(
        self, transport: asyncio.Transport, head: bytes, *, peer: tuple[str, int] | None = None, is_proxied: bool = False
    ) -> None:
        """Serve a connection from which `head` was already read; the transport's protocol is replaced at once.

        `peer`: the client's address if it isn't the socket's (a proxy reported it). `is_proxied`: a PROXY header was read. The
        transport must be reading, and is closed at the end.
        """
        # Not to lose a connection in the middle of this: StreamWriter.__del__ closes its transport, so the writer
        # lives as long as the task that serves it.
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_AHEAD, loop=loop)
        surroundings = Surroundings(self._terminated)
        protocol = Protocol(reader, surroundings)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        reader.feed_data(head)
        transport.set_write_buffer_limits(high=WRITE_BEHIND)
        if isinstance(transport, SocketTransport):
            transport.gather_writes()  # head and body of an answer go out together
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        probe_when_silent(transport)
        self._connections[transport] = surroundings
        self._idle.clear()
        state: dict[str, object] = {PEER: peer, PROXIED: is_proxied}
        self._tasks.start_soon(self._serve, reader, writer, surroundings, state, name="hypercorn")

    async def stop(self, grace: float) -> None:
        """Close idle connections now, others when their answer is written; after `grace` seconds cut those that are left."""
        await self._terminated.set()
        for surroundings in tuple(self._connections.values()):
            await surroundings.terminated.set()
        with anyio.move_on_after(grace):
            while self._connections:
                await self._idle.wait()
        self.cut_all()

    def cut_all(self) -> None:
        """Cut every connection. A peer that does not read its answer would else hold up its task, which waits for that."""
        for transport in tuple(self._connections):
            with logged_faults("cutting a connection"):
                cut(transport)

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        surroundings: Surroundings,
        state: dict[str, object],
    ) -> None:
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()
        state |= {CUT: partial(cut, writer.transport), ASKED: asked, PACE: surroundings.keep_pace}
        late = loop.call_later(KEEP_ALIVE, cut_unless, asked, writer.transport)
        try:
            await TCPServer(self._app, loop, self._config, surroundings, state, reader, writer)
        except Exception as error:  # the border to code that isn't ours: a peer's odd frame may end up here
            log.debug("connection failed", error=repr(innermost(error)))
        finally:
            late.cancel()
            cut(writer.transport)  # nothing after a proper close; else it must not outlive its task
            self._connections.pop(writer.transport, None)
            if not self._connections:
                self._idle.set()


@asynccontextmanager
async def open_hypercorn(app: ASGIFramework, running: SiteView, *, grace: float = 1.0) -> AsyncIterator[HypercornServer]:
    """Serve connections until the block ends; then they have `grace` seconds to finish their answers."""
    async with anyio.create_task_group() as tasks:
        hypercorn = HypercornServer(app, running, tasks)
        try:
            yield hypercorn
        finally:
            with anyio.CancelScope(shield=True):
                await hypercorn.stop(grace)
            tasks.cancel_scope.cancel()


def cut_unless(asked: asyncio.Event, transport: asyncio.BaseTransport) -> None:
    """Cut a connection that has said hello in HTTP/2 and nothing else: Hypercorn would wait for its first request for ever."""
    if not asked.is_set():
        cut(transport)


def cut(transport: asyncio.BaseTransport) -> None:
    """Cut a connection, whatever became of it before."""
    with suppress(AttributeError):  # from asyncio's TLS transport that was closed twice, as Hypercorn does, in Python 3.11.2
        cast(asyncio.Transport, transport).abort()


def probe_when_silent(transport: asyncio.Transport) -> None:
    """Let the kernel find dead peers: Hypercorn pings but does not miss a pong."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):  # it may be gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in PROBES.items():
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def innermost(error: BaseException) -> BaseException:
    """The first error inside groups of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
