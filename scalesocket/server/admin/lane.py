"""The ASGI app of the admin surface: authenticates each request, and passes it to the Quart app."""

from functools import cached_property, partial
from typing import Final

from quart import Quart

from scalesocket.admission.refusals import Refusal
from scalesocket.gateway import Gateway
from scalesocket.operations.table import Operations
from scalesocket.overview import Overview
from scalesocket.server.admin.app import create_admin_app
from scalesocket.server.admin.guard import Guard
from scalesocket.server.admin.routes import CALLER
from scalesocket.server.asgi import closing_after, refuse_request, refuse_upgrade
from scalesocket.server.asgi_request import Scope, is_framed_twice, normalize_target, request_of
from scalesocket.server.general import Receive, Send
from scalesocket.server.hypercorn.state import FIRST_REQUEST, TRUST
from scalesocket.status import HasSite
from scalesocket.wire.handshake import NO_PATH

NO_WEBSOCKETS: Final = Refusal(status=404, reason="admin_websocket", message="the admin surface has no websockets")
BAD_PATH: Final = Refusal(status=400, reason="bad_handshake", message=NO_PATH)
CHALLENGE: Final = (b"www-authenticate", b'Bearer realm="scalesocket admin"')
"""RFC 9110 11.6.1, RFC 6750 3."""


class AdminLane:
    """The ASGI app over a running site."""

    def __init__(self, gateway: Gateway, running: HasSite, overview: Overview, operations: Operations) -> None:
        """Show `overview`, and carry out `operations`. `gateway` counts refused requests; `running` knows the site in force."""
        self._gateway = gateway
        self._guard = Guard(running)
        self._create_http = partial(create_admin_app, running, overview, operations)

    @cached_property
    def _http(self) -> Quart:
        """Made for the first request: most servers have no admin surface."""
        return self._create_http()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3.0); refuse a websocket."""
        if (first_request := scope.get("state", {}).get(FIRST_REQUEST)) is not None:
            first_request.set()
        normalize_target(scope)
        request = request_of(scope)
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
            await refuse_upgrade(self._gateway.admission.count(NO_WEBSOCKETS), scope, send)
            return
        is_path = request.path.startswith("/") or request.path == "*"
        verdict = await self._guard.admit(request) if is_path else BAD_PATH
        if isinstance(verdict, Refusal):
            challenge = [CHALLENGE] if verdict.status == 401 else []
            await refuse_request(self._gateway.admission.count(verdict), request, send, *challenge)
            return
        if (trust := scope.get("state", {}).get(TRUST)) is not None:
            trust()
        scope[CALLER] = verdict
        await self._http(scope, receive, closing_after(send) if is_framed_twice(request) else send)  # type: ignore[arg-type]
