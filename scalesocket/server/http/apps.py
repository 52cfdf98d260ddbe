"""`/api/apps/`: the apps of the running site."""

from quart import Blueprint, Response
from werkzeug.exceptions import NotFound

from scalesocket.config.model import App
from scalesocket.server.http.responses import answer_json
from scalesocket.status import AppStatus, SiteView


def apps_blueprint(running: SiteView) -> Blueprint:
    """The list of apps; 404 while `server.api` is false."""
    blueprint = Blueprint("apps", __name__)

    @blueprint.get("/api/apps/")
    async def apps() -> Response:
        if not running.site.server.api:
            raise NotFound
        status = running.status()
        return answer_json(
            {
                "generation": status.generation,
                "last_error": status.public_error,
                "draining": status.is_draining,
                "connections": status.connections,
                "apps": [describe(app, running.site.apps[app.name]) for app in status.apps],
            }
        )

    return blueprint


def describe(app: AppStatus, settings: App) -> dict[str, object]:
    """One app with its counts; its rooms are at its own API.

    The target of an app without rooms is null. Of a command, only the program is shown: its arguments may hold secrets, and
    anybody may ask.
    """
    return {
        "name": app.name,
        "mount": app.mount,
        "target": target_of(app, settings),
        "rooms": len(app.rooms),
        "rooms_total": app.rooms_total,
        "connections": app.connections,
        "connections_total": app.counts.connections_total,
    }


def target_of(app: AppStatus, settings: App) -> str | None:
    """What its rooms run or connect to, as far as that is public."""
    if not settings.has_rooms:
        return None
    return app.target if settings.command is None else settings.command[0]
