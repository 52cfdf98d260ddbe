"""`POST /NAME/api/ROOM/ticket`: a ticket for one upgrade, for a page that cannot put its credential into a websocket's request.

CORS is not opened, so only pages of the same origin can read the response.
"""

from collections.abc import Mapping
from typing import cast

from quart import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from scalesocket.admission.control import AdmissionControl
from scalesocket.admission.paths import root_app
from scalesocket.admission.refusals import Refusal
from scalesocket.auth.credentials import TICKET
from scalesocket.auth.tickets import LIFETIME
from scalesocket.config.model import App
from scalesocket.server.http.responses import answer_error, answer_json
from scalesocket.server.http.views import REQUEST
from scalesocket.status import HasSite
from scalesocket.wire.handshake import Request


def tickets_blueprint(running: HasSite, admission: AdmissionControl) -> Blueprint:
    """Make the route; 404 for an app that does not take tickets."""
    blueprint = Blueprint("tickets", __name__)

    def find_app(name: str | None) -> App:
        site = running.site
        app = root_app(site) if name is None else site.apps.get(name)
        if app is None or (app.mount == "/") != (name is None) or not app.has_rooms:
            raise NotFound
        if app.auth is None or TICKET not in app.auth.places:
            raise NotFound
        return app

    @blueprint.post("/api/<room_name>/ticket", defaults={"name": None})
    @blueprint.post("/<name>/api/<room_name>/ticket")
    async def ticket(name: str | None, room_name: str) -> Response:
        asked = cast(Mapping[str, Request], request.scope)[REQUEST]
        answer = await admission.issue_ticket(asked, find_app(name), room_name)
        if isinstance(answer, Refusal):
            response = answer_error(answer.status, answer.message)
            for field, value in answer.fields:
                response.headers.add(field, value)
            return response
        return answer_json({"ticket": answer, "expires_in": LIFETIME})

    return blueprint
