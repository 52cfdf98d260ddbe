"""`/api/apps/`: the apps of the running site."""

from quart import Blueprint, Response
from werkzeug.exceptions import NotFound

from scalesocket.config.model import App
from scalesocket.overview import Overview
from scalesocket.server.http.responses import answer_json
from scalesocket.server.http.surface import Surface
from scalesocket.status import AppStatus, HasSite


def apps_blueprint(running: HasSite, overview: Overview, surface: Surface) -> Blueprint:
    """Make the route of the list; 404 where `server.api` does not serve it."""
    blueprint = Blueprint("apps", __name__)

    @blueprint.get("/api/apps/")
    async def apps() -> Response:
        if not surface.has_api(running.site.server):
            raise NotFound
        status = await overview.status()
        settings = running.site.apps  # an edit may have removed an app since the snapshot
        return answer_json(
            {
                "generation": status.generation,
                "last_error": status.public_error
                if surface is Surface.PUBLIC
                else status.last_error or "\n".join(status.warnings) or None,
                "draining": status.is_draining,
                "connections": status.connections,
                "apps": [describe(app, settings[app.name], surface) for app in status.apps if app.name in settings],
            }
        )

    return blueprint


def describe(app: AppStatus, settings: App, surface: Surface) -> dict[str, object]:
    """Describe one app with its counts; its own API lists its rooms.

    The target of an app without rooms is null. Of a command only the program is shown: the arguments may hold secrets, and
    the API is public. The counts of an app that is not listed are null.
    """
    record: dict[str, object] = {"name": app.name, "mount": app.mount, "target": target_of(app, settings)}
    is_listed = surface.lists(settings)
    record |= {
        "rooms": len(app.rooms) if is_listed else None,
        "rooms_total": app.rooms_total if is_listed else None,
        "connections": app.connections if is_listed else None,
        "connections_total": app.counts.connections_total if is_listed else None,
    }
    return record if surface is Surface.PUBLIC else record | backends_of(app)


def backends_of(app: AppStatus) -> dict[str, object]:
    """Describe the backends of an app, for its owner."""
    return {
        "backend_starts": app.backend_starts,
        "backend_failures": app.backend_failures,
        "backend_crashes": app.backend_crashes,
        "backend_exits": app.backend_exits,
        "last_exit": app.last_exit,
    }


def target_of(app: AppStatus, settings: App) -> str | None:
    """Return what the app's rooms run or connect to, as far as that is public."""
    if not settings.has_rooms:
        return None
    return app.target if settings.command is None else settings.command[0]
