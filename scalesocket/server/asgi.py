"""The general lane: the ASGI app that Hypercorn runs, on connections accepted here or as a server of its own.

HTTP goes to the Quart app, websockets (HTTP/1.1 after a first request on the connection, HTTP/2 by RFC 8441) to their rooms.
`create_app` makes the app for a stock Hypercorn, where every websocket takes this lane:

    hypercorn 'scalesocket.server.asgi:create_app("site.toml")'
"""

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Final

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup

from scalesocket.admission.control import Admission, PendingAdmission
from scalesocket.admission.refusals import NO_DESCRIPTORS, Refusal
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.config.load import load_site
from scalesocket.errors import ScalesocketError
from scalesocket.gateway import Gateway, open_gateway
from scalesocket.io.poller import Poller
from scalesocket.overview import LocalOverview, Overview
from scalesocket.placement.relay import Relay
from scalesocket.server.asgi_request import Scope, has_body, is_framed_twice, normalize_target, request_of
from scalesocket.server.connections import Connections
from scalesocket.server.general import AsgiMessage, GeneralClient, Receive, Send
from scalesocket.server.http.app import create_http_app
from scalesocket.server.http.views import REQUEST
from scalesocket.server.hypercorn.patches import patch_hypercorn
from scalesocket.server.hypercorn.state import CUT, FIRST_REQUEST, NEW_WEBSOCKET, RESERVED
from scalesocket.server.known_versions import warn_of_unknown_versions
from scalesocket.server.relayed_upgrade import RelayedStream, place_messages
from scalesocket.server.security_headers import OWN_FIELDS
from scalesocket.server.single_worker import lock_single_worker
from scalesocket.wire import handshake
from scalesocket.wire.handshake import Request

log = structlog.get_logger("asgi")

DROP_TIMEOUT: Final = 60.0
"""Seconds for which messages of a closed websocket are dropped, until the server ends it."""

NO_PATH: Final = Refusal(status=400, reason="bad_handshake", message=handshake.NO_PATH)
HAS_BODY: Final = Refusal(status=400, reason="bad_handshake", message=handshake.HAS_BODY)


def create_app(path: str) -> "SiteApp":
    """Make the ASGI app of a site file for a stock Hypercorn with one worker. The file is read when the server starts."""
    warn_of_unknown_versions()
    patch_hypercorn()
    return SiteApp(Path(path))


class SiteApp:
    """A site as an ASGI app. Its gateway runs from the server's startup to its shutdown."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lane: GeneralLane | None = None

    @property
    def gateway(self) -> Gateway:
        """The running site. Raises ScalesocketError before it has started."""
        return self._started().gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the lifespan, a request or a websocket (ASGI 3.0)."""
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        else:
            await self._started()(scope, receive, send)

    def _started(self) -> "GeneralLane":
        if self._lane is None:
            raise ScalesocketError(f"{self._path}: not started (run it under a server with ASGI's lifespan protocol)")
        return self._lane

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        phase, failure = "startup", ""
        try:
            with (
                lock_single_worker(self._path),
                closing(SpawnerClient()) as spawner,
                closing(Poller(asyncio.get_running_loop())) as poller,
            ):
                site = load_site(self._path)
                if site.cluster is not None:
                    raise ScalesocketError(
                        f"{self._path}: a node of a cluster is started with scalesocket serve (or remove [cluster])"
                    )
                spawner.start()
                async with (
                    open_gateway(site, spawner=spawner, poller=poller) as gateway,
                    anyio.create_task_group() as tasks,
                ):
                    self._lane = GeneralLane(gateway, tasks)
                    phase = "shutdown"
                    await send({"type": "lifespan.startup.complete"})
                    await receive()  # lifespan.shutdown
                    await gateway.drain()
                    tasks.cancel_scope.cancel()
        except ScalesocketError as error:
            failure = str(error)
        if failure:
            await send({"type": f"lifespan.{phase}.failed", "message": failure})
        else:
            await send({"type": "lifespan.shutdown.complete"})


class GeneralLane:
    """The ASGI app over a running gateway. `tasks` owns the tasks that outlive a websocket."""

    def __init__(self, gateway: Gateway, tasks: TaskGroup, overview: Overview | None = None) -> None:
        """Show `overview` in pages and API; None: the rooms of `gateway`."""
        self.gateway = gateway
        self.connections: Connections | None = None
        """What hands websockets over to other processes; None under a stock Hypercorn."""
        self._tasks = tasks
        self._http = create_http_app(gateway, LocalOverview(gateway) if overview is None else overview)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one websocket (ASGI 3.0)."""
        if (first_request := scope.get("state", {}).get(FIRST_REQUEST)) is not None:
            first_request.set()
        normalize_target(scope)
        request = request_of(scope)
        if scope["type"] == "websocket":
            await self._serve_websocket(request, scope, receive, send)
            return
        refusal = self._check_request(request)
        if refusal is not None:
            await refuse_request(refusal, request, send)
        else:
            scope[REQUEST] = request
            is_last = is_framed_twice(request) or (is_reserved(scope) and request.http_version != "2")
            await self._http(scope, receive, closing_after(send) if is_last else send)  # type: ignore[arg-type]

    def _check_request(self, request: Request) -> Refusal | None:
        """Decide whether a plain request may be answered; None if it may."""
        if not request.path.startswith("/") and request.path != "*":  # RFC 9112 3.2
            return self.gateway.admission.count(NO_PATH)
        return self.gateway.admission.check_page(request)

    async def _serve_websocket(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        wrong = NO_PATH if not request.path.startswith("/") else HAS_BODY if has_body(request) else None
        wrong = NO_DESCRIPTORS if wrong is None and is_reserved(scope) else wrong
        if wrong is not None:
            await refuse_upgrade(self.gateway.admission.count(wrong), scope, send)
            return
        admission = self.gateway.admission.admit(request)
        if isinstance(admission, PendingAdmission):
            admission = await admission.wait()
        if isinstance(admission, Refusal):
            await refuse_upgrade(admission, scope, send)
            return
        ours: RelayedStream | None = None
        if self.connections is not None and self.connections.placement is not None and admission.close is None:
            placed = await place_messages(self.connections, admission)
            if isinstance(placed, Refusal):
                await refuse_upgrade(placed, scope, send)
                return
            admission, ours = placed
        await self._run(admission, ours, scope, receive, send)

    async def _run(self, admission: Admission, ours: RelayedStream | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a websocket: in its room, or relayed to the owner of its room by `ours`."""
        if admission.subprotocol is not None and admission.subprotocol not in scope["subprotocols"]:
            # Hypercorn reads only the last of several headers, and agrees only to a name in this list.
            scope["subprotocols"].append(admission.subprotocol)
        # To cut an HTTP/2 connection would end its other streams, too.
        cut = scope.get("state", {}).get(CUT) if admission.request.http_version == "1.1" else None
        if (note_websocket := scope.get("state", {}).get(NEW_WEBSOCKET)) is not None:
            note_websocket(admission.app)
        is_gone = False
        try:
            if ours is None or self.connections is None:
                is_gone = await GeneralClient(admission, receive, send, cut=cut).run()
            else:
                is_gone = await Relay(admission, receive, send, passages=self.connections.passages, cut=cut).run(*ours)
        finally:
            # Hypercorn passes messages through a bounded queue, and waits for space in it before it ends the websocket.
            if not is_gone and not self._tasks.cancel_scope.cancel_called:
                self._tasks.start_soon(drop_messages, receive, name="drop messages")


def is_reserved(scope: Scope) -> bool:
    """Whether the connection of a request has one of the last descriptors."""
    return bool(scope.get("state", {}).get(RESERVED))


def closing_after(send: Send) -> Send:
    """Wrap `send` so that the connection closes after the response: further bytes may belong to the same request."""

    async def send_last(message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return send_last


async def refuse_request(refusal: Refusal, request: Request, send: Send, *more: tuple[bytes, bytes]) -> None:
    """Answer a plain request with the refusal's status, and with `more` headers."""
    body = msgspec.json.encode({"error": refusal.message})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *OWN_FIELDS,
        (b"cache-control", b"no-store"),
        *more,
    ]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after))
    if request.http_version != "2":  # where only the stream ends
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse_upgrade(refusal: Refusal, scope: Scope, send: Send) -> None:
    """Answer an upgrade with the refusal's status, if the server can (websocket.http.response); else close, which is a 403."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    body = f"{refusal.message}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body)), *OWN_FIELDS]
    headers += [(name.lower().encode(), value.encode()) for name, value in refusal.fields]
    await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


async def drop_messages(receive: Receive) -> None:
    """Drop the messages that a peer still sends, until the server ends the websocket."""
    with anyio.move_on_after(DROP_TIMEOUT):
        while (await receive())["type"] != "websocket.disconnect":
            pass
