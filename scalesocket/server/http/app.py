"""The Quart app, with the routes for browsers, scrapers and probes.

The routes are the same on every site. Each request looks up its app in `running.site`, because an edit of the site file adds and
removes apps. No route reads a body.
"""

from typing import Final

import structlog
from quart import Quart, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from scalesocket.gateway import Gateway
from scalesocket.overview import Overview, UnavailableError
from scalesocket.server.http.apps import apps_blueprint
from scalesocket.server.http.health import health_blueprint
from scalesocket.server.http.responses import answer_error
from scalesocket.server.http.rooms import rooms_blueprint
from scalesocket.server.http.scrape import scrape_blueprint
from scalesocket.server.http.static import FileResponse, static_blueprint
from scalesocket.server.http.surface import Surface
from scalesocket.server.http.tickets import tickets_blueprint
from scalesocket.server.security_headers import FILE, OWN
from scalesocket.status import HasSite

MAX_BODY: Final = 16 * 1024
"""Bytes of a request body that are read and dropped; a longer body is answered with 413."""
BODY_TIMEOUT: Final = 5.0
"""Seconds in which a body must arrive."""
HINTS: Final = {
    405: "use GET or HEAD",
    408: f"a request body must arrive within {BODY_TIMEOUT:.0f} s",
    413: f"no path takes a body; up to {MAX_BODY} bytes are ignored",
}
"""What a client can do about an error, by status."""

log = structlog.get_logger(__name__)


def create_http_app(running: Gateway, overview: Overview) -> Quart:
    """Make the Quart app of a running site. It owns no tasks and needs no lifespan."""
    app = create_base_app("scalesocket.server.http", running, overview, Surface.PUBLIC, max_body=MAX_BODY)
    app.register_blueprint(tickets_blueprint(running, running.admission))
    app.register_blueprint(static_blueprint(running, overview))
    app.before_request(skip_body)
    app.register_error_handler(HTTPException, answer_http_error)
    return app


def create_base_app(name: str, running: HasSite, overview: Overview, surface: Surface, *, max_body: int) -> Quart:
    """Make what the public app and the admin app have in common. `max_body`: the bytes that a request may have in its body."""
    app = Quart(name, static_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = max_body
    app.config["BODY_TIMEOUT"] = BODY_TIMEOUT
    app.register_blueprint(health_blueprint(overview))
    for blueprint in (scrape_blueprint, apps_blueprint, rooms_blueprint):
        app.register_blueprint(blueprint(running, overview, surface))
    app.after_request(harden)
    app.register_error_handler(UnavailableError, answer_unavailable)
    app.register_error_handler(Exception, answer_fault)
    return app


async def skip_body() -> None:
    """Read and drop a body, so that the connection can serve further requests. Too long: 413; too slow: 408."""
    if (request.content_length or 0) > MAX_BODY:
        raise RequestEntityTooLarge
    if request.content_length or "Transfer-Encoding" in request.headers:
        await request.get_data(cache=False)


async def harden(response: Response) -> Response:
    """Add the headers of every response: those for security, and no caching except of static files."""
    for name, value in (FILE if isinstance(response, FileResponse) else OWN).items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")
    return response


async def answer_http_error(error: HTTPException) -> Response:
    """Answer with the error's status and headers (`Allow`, `Location`, `Content-Range`), and a text in JSON."""
    headers = {name: value for name, value in error.get_headers() if name.lower() != "content-type"}
    status = error.code or 500
    hint = f" ({HINTS[status]})" if status in HINTS else ""
    return answer_error(status, f"{error.name.lower()}{hint}", headers=headers)


async def answer_unavailable(error: UnavailableError) -> Response:
    """Answer that the state of the site is not known. The reason is for the log, at debug: many clients may ask at once."""
    log.debug("request not answered", path=request.path, reason=str(error))
    return answer_error(503, "the state of the site is not available at the moment (try again)", headers={"Retry-After": "1"})


async def answer_fault(error: Exception) -> Response:
    """Log an unexpected exception; its text is not for the client."""
    log.error("request failed", path=request.path, exc_info=error)
    return answer_error(500, "internal server error (the log of the server has the cause)")
