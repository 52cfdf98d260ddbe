"""`/api/apps/`: the apps of the running site."""

from quart import Blueprint, Response
from werkzeug.exceptions import NotFound

from scalesocket.config.model import App
from scalesocket.server.http.responses import answer_json
from scalesocket.status import AppStatus, SiteView


def apps_blueprint(running: SiteView) -> Blueprint:
    """Make the route of the list; 404 while `server.api` is false."""
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
    """Describe one app with its counts; its own API lists its rooms.

    The target of an app without rooms is null. Of a command only the program is shown: the arguments may hold secrets, and
    the API is public.
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
    """Return what the app's rooms run or connect to, as far as that is public."""
    if not settings.has_rooms:
        return None
    return app.target if settings.command is None else settings.command[0]
