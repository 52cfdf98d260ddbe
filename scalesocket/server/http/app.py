"""The Quart app: what a browser, a scraper or a probe may ask of a running site.

Routes name what exists on every site; which apps there are is looked up in `running.site` at each request, because an edit
of the site file adds and removes apps while this app runs. No route takes a body.
"""

from typing import Final

import structlog
from quart import Quart, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from scalesocket.server.http.apps import apps_blueprint
from scalesocket.server.http.health import health_blueprint
from scalesocket.server.http.responses import answer_error
from scalesocket.server.http.rooms import rooms_blueprint
from scalesocket.server.http.scrape import scrape_blueprint
from scalesocket.server.http.static import static_blueprint
from scalesocket.status import SiteView

MAX_BODY: Final = 16 * 1024
"""Bytes of a request's body that are read and forgotten; a longer one is answered with 413."""
BODY_TIMEOUT: Final = 5.0
"""Seconds for such a body to arrive."""

log = structlog.get_logger(__name__)


def create_http_app(running: SiteView) -> Quart:
    """Make the Quart app of a running site. It owns no tasks and needs no lifespan."""
    app = Quart("scalesocket.server.http", static_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.config["BODY_TIMEOUT"] = BODY_TIMEOUT
    for blueprint in (health_blueprint, scrape_blueprint, apps_blueprint, rooms_blueprint, static_blueprint):
        app.register_blueprint(blueprint(running))
    app.before_request(skip_body)
    app.after_request(harden)
    app.register_error_handler(HTTPException, answer_http_error)
    app.register_error_handler(Exception, answer_fault)
    return app


async def skip_body() -> None:
    """Read a body and forget it, so that the connection can go on; refuse one that is too long (413) or too slow (408)."""
    if (request.content_length or 0) > MAX_BODY:
        raise RequestEntityTooLarge
    if request.content_length or "Transfer-Encoding" in request.headers:
        await request.get_data(cache=False)


async def harden(response: Response) -> Response:
    """Add what every answer carries: the declared content type is final, and nothing but static files may be kept."""
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cache-Control", "no-store")
    return response


async def answer_http_error(error: HTTPException) -> Response:
    """Answer with the error's status, the headers it asks for (`Allow`, `Location`, `Content-Range`), and a line of JSON."""
    headers = {name: value for name, value in error.get_headers() if name.lower() != "content-type"}
    return answer_error(error.code or 500, error.name.lower(), headers=headers)


async def answer_fault(error: Exception) -> Response:
    """Log a fault of ours, and say no more than that."""
    log.error("http.fault", path=request.path, exc_info=error)
    return answer_error(500, "internal server error")
