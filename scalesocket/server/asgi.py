"""The general lane: the ASGI app that Hypercorn runs, behind our door or on its own.

HTTP goes to the Quart app, websockets (HTTP/1.1 after a first request on the connection, HTTP/2 by RFC 8441) to their rooms.
`create_app` makes the same for a stock Hypercorn, where every websocket takes this lane:

    hypercorn 'scalesocket.server.asgi:create_app("site.toml")'
"""

import asyncio
import re
from collections.abc import MutableMapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup

from scalesocket.admission import Refusal
from scalesocket.backends.launcher import Spawner
from scalesocket.config.load import load_site
from scalesocket.errors import ScalesocketError
from scalesocket.gateway import Gateway, open_gateway
from scalesocket.io.poller import Poller
from scalesocket.server.general import AsgiMessage, GeneralClient, Receive, Send
from scalesocket.server.http.app import create_http_app
from scalesocket.server.http.views import REQUEST
from scalesocket.server.hypercorn.http2 import CUT, install_protocols
from scalesocket.server.hypercorn.no_deflate import decline_deflate
from scalesocket.server.hypercorn.refused_upgrades import end_refused_upgrades
from scalesocket.server.hypercorn.server import ASKED, PACE, PEER, PROXIED
from scalesocket.server.known_versions import warn_of_unknown_versions
from scalesocket.server.single_worker import claim_only_worker
from scalesocket.wire.authority import parse_authority
from scalesocket.wire.handshake import Request, as_sent, split_absolute

log = structlog.get_logger("asgi")

Scope = MutableMapping[str, Any]

DISCARD_TIMEOUT: Final = 60.0
"""Seconds in which a server must end a websocket after our part of it is over."""

NO_PATH: Final = Refusal(status=400, reason="bad_handshake", message="the request target is no path")
HAS_BODY: Final = Refusal(status=400, reason="bad_handshake", message="a websocket is opened without a body")


def create_app(path: str) -> "SiteApp":
    """Make the ASGI app of a site file, for a stock Hypercorn with one worker. The file is read when the server starts."""
    warn_of_unknown_versions()
    decline_deflate()
    install_protocols()
    end_refused_upgrades()
    return SiteApp(Path(path))


class SiteApp:
    """A whole site as an ASGI app: its gateway lives from the server's startup to its shutdown."""

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
            await self._live(receive, send)
        else:
            await self._started()(scope, receive, send)

    def _started(self) -> "GeneralLane":
        if self._lane is None:
            raise ScalesocketError(f"{self._path}: not started (the server must speak ASGI's lifespan protocol)")
        return self._lane

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        phase, failure = "startup", ""
        try:
            with (
                claim_only_worker(self._path),
                closing(Spawner()) as spawner,
                closing(Poller(asyncio.get_running_loop())) as poller,
            ):
                site = load_site(self._path)
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
    """The ASGI app over a running gateway. `tasks` owns what outlives a client for a moment."""

    def __init__(self, gateway: Gateway, tasks: TaskGroup) -> None:
        self.gateway = gateway
        self._tasks = tasks
        self._http = create_http_app(gateway)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one websocket (ASGI 3.0)."""
        if (asked := scope.get("state", {}).get(ASKED)) is not None:
            asked.set()
        settle_target(scope)
        request = request_of(scope)
        if scope["type"] == "websocket":
            await self._serve_websocket(request, scope, receive, send)
            return
        refusal = self._check_request(request)
        if refusal is not None:
            await refuse_page(refusal, request, send)
        else:
            scope[REQUEST] = request
            await self._http(scope, receive, closing_after(send) if is_framed_twice(request) else send)  # type: ignore[arg-type]

    def _check_request(self, request: Request) -> Refusal | None:
        """Whether a request that is no upgrade may be answered."""
        if not request.path.startswith("/") and request.path != "*":  # RFC 9112 3.2
            return self.gateway.count(NO_PATH)
        return self.gateway.check_page(request)

    async def _serve_websocket(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        wrong = NO_PATH if not request.path.startswith("/") else HAS_BODY if has_body(request) else None
        if wrong is not None:
            await refuse(self.gateway.count(wrong), scope, send)
            return
        admission = self.gateway.admit(request)
        if isinstance(admission, Refusal):
            await refuse(admission, scope, send)
            return
        if admission.subprotocol is not None and admission.subprotocol not in scope["subprotocols"]:
            # Hypercorn reads the last of several headers, and agrees on what is in its list alone: this one.
            scope["subprotocols"].append(admission.subprotocol)
        # Cutting an HTTP/2 connection would take every other stream of it along.
        cut = scope.get("state", {}).get(CUT) if request.http_version == "1.1" else None
        if (keep_pace := scope.get("state", {}).get(PACE)) is not None:
            keep_pace(admission.app)
        client = GeneralClient(admission, receive, send, cut=cut)
        is_gone = False
        try:
            is_gone = await client.run()
        finally:
            # Hypercorn gives us messages through a bounded queue and waits for room in it even to end the websocket.
            if not is_gone and not self._tasks.cancel_scope.cancel_called:
                self._tasks.start_soon(discard, receive, name="discard")


def request_of(scope: Scope) -> Request:
    """The request head as admission and CGI variables need it, from an ASGI scope."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    path, query = scope["raw_path"].decode("latin-1"), as_sent(scope["query_string"].decode("latin-1"))
    state = scope.get("state", {})
    peer = state.get(PEER) or scope.get("client")
    local = scope.get("server")
    return Request(
        method="GET",  # over HTTP/2 it is CONNECT, which says nothing to a backend (RFC 8441 5)
        target=f"{path}?{query}" if query else path,
        path=path,
        query=query,
        headers=headers,
        peer=(peer[0], peer[1]) if peer else None,
        local=(local[0], local[1]) if local else None,
        is_secure=scope["scheme"] in ("wss", "https"),
        http_version=scope["http_version"],
        is_proxied=bool(state.get(PROXIED)),
    )


def settle_target(scope: Scope) -> None:
    """Make an absolute target (`GET http://host/path`, RFC 9112 3.2.2) the path alone, and its authority the Host header.

    What has no valid Host header keeps it, to be refused for that. In the decoded path an escaped slash stays escaped, because
    it does not separate segments (RFC 3986 2.2).
    """
    raw_path = scope["raw_path"].decode("latin-1")
    absolute = None if raw_path.startswith("/") or scope["http_version"] == "2" else split_absolute(raw_path)
    if absolute is not None:
        authority, raw_path, _ = absolute  # the server has split the query off
        scope["raw_path"], scope["path"] = raw_path.encode("latin-1"), unquote(raw_path)
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        if all(parse_authority(value.decode("latin-1")) is not None for name, value in headers if name == b"host"):
            scope["headers"] = [(b"host", authority.encode("latin-1")), *(header for header in headers if header[0] != b"host")]
    if "%2f" in raw_path.lower():
        scope["path"] = unquote(re.sub("%2f", "%252F", raw_path, flags=re.IGNORECASE))


def has_body(request: Request) -> bool:
    """Whether a request announces a body, which an upgrade must not have."""
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def is_framed_twice(request: Request) -> bool:
    """Whether a request states its length in two ways: a proxy may have taken the other one (RFC 9112 6.1)."""
    return "transfer-encoding" in request.headers and "content-length" in request.headers


def closing_after(send: Send) -> Send:
    """End the connection after the response that is sent: what follows on it may be a part of the same request."""

    async def send_last(message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return send_last


async def refuse_page(refusal: Refusal, request: Request, send: Send) -> None:
    """Answer a request that is no upgrade with the refusal's status."""
    body = msgspec.json.encode({"error": refusal.message})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
    ]
    if request.http_version != "2":  # where it is one stream that ends
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse(refusal: Refusal, scope: Scope, send: Send) -> None:
    """Answer with the refusal's status, where the server can (websocket.http.response); else close, which is a 403."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    body = f"{refusal.message}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after))
    await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


async def discard(receive: Receive) -> None:
    """Throw away what a peer goes on sending, until the server ends the websocket."""
    with anyio.move_on_after(DISCARD_TIMEOUT):
        while (await receive())["type"] != "websocket.disconnect":
            pass
