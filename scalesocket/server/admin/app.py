"""The Quart app of the admin surface: probes, metrics and rooms of all apps, and the operations on the site."""

from typing import Final

from quart import Quart, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from scalesocket.operations.table import Operations
from scalesocket.overview import Overview
from scalesocket.server.admin.routes import operations_blueprint
from scalesocket.server.http.app import create_base_app, skip_body
from scalesocket.server.http.responses import answer_error
from scalesocket.server.http.surface import Surface
from scalesocket.status import HasSite

MAX_BODY: Final = 64 * 1024
"""Bytes of the longest request body."""


def create_admin_app(running: HasSite, overview: Overview, operations: Operations) -> Quart:
    """Make the app of a running site. Its requests have been authenticated; `CALLER` in their scope says who makes them."""
    app = create_base_app("scalesocket.server.admin", running, overview, Surface.ADMIN, max_body=MAX_BODY)
    app.register_blueprint(operations_blueprint(operations))
    app.before_request(skip_body_of_get)
    app.register_error_handler(HTTPException, answer_http_error)
    return app


async def skip_body_of_get() -> None:
    """Read and drop the body of a request that has none by its meaning, so that the connection can serve further requests."""
    if request.method != "POST":
        await skip_body()


async def answer_http_error(error: HTTPException) -> Response:
    """Answer with the error's status and headers, and a text in JSON."""
    headers = {name: value for name, value in error.get_headers() if name.lower() != "content-type"}
    methods = ", ".join(sorted({*(error.valid_methods or ())} - {"OPTIONS"})) if isinstance(error, MethodNotAllowed) else ""
    hint = f" (use {methods})" if methods else ""
    return answer_error(error.code or 500, f"{error.name.lower()}{hint}", headers=headers)
