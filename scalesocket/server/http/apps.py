"""`/api/apps/`: the apps of the running site. `/`: the same as a page with links, where no app is mounted there."""

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Final

from quart import Blueprint, Response
from werkzeug.exceptions import NotFound

from scalesocket.config.model import App, Site
from scalesocket.server.http.answers import answer_json
from scalesocket.status import AppStatus

if TYPE_CHECKING:
    from scalesocket.gateway import Gateway

PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>scalesocket</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 4rem auto; padding: 0 1rem }}
table {{ width: 100%; border-collapse: collapse }}
th {{ text-align: left; font-weight: 500; opacity: .6 }}
th, td {{ padding: .5rem 1rem .5rem 0; border-bottom: 1px solid color-mix(in srgb, currentColor 15%, transparent) }}
td {{ overflow-wrap: anywhere }}
td.number, th.number {{ text-align: right; padding: .5rem 0 .5rem .75rem }}
code {{ font-size: .9em }}
</style>
</head>
<body>
<h1>scalesocket</h1>
<table>
<thead><tr><th>App</th><th>Websocket</th><th class="number">Rooms</th><th class="number">Clients</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"


def apps_blueprint(gateway: "Gateway") -> Blueprint:
    """The list of one gateway; 404 while `server.api` is false."""
    blueprint = Blueprint("apps", __name__)

    @blueprint.get("/api/apps/")
    async def apps() -> Response:
        if not gateway.site.server.api:
            raise NotFound
        status = gateway.status()
        return answer_json(
            {
                "generation": status.generation,
                "last_error": status.public_error,
                "draining": status.is_draining,
                "connections": status.connections,
                "apps": [describe(app, gateway.site.apps[app.name]) for app in status.apps],
            }
        )

    return blueprint


def describe(app: AppStatus, settings: App) -> dict[str, object]:
    """One app with its counts; its rooms are at its own API.

    The target of an app without rooms is null. Of a command, the program alone is told: its arguments may hold secrets, and
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
    """What its rooms run or connect to, as far as anybody may know."""
    if not settings.has_rooms:
        return None
    return app.target if settings.command is None else settings.command[0]


def answer_index(site: Site, apps: Iterable[AppStatus]) -> Response:
    """A page that lists the apps; the names of those with static files are links."""
    pages = {app.mount for app in site.apps.values() if app.static}
    rows = "\n".join(row_of(app, is_page=app.mount in pages) for app in apps)
    return Response(PAGE.format(rows=rows), content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": POLICY})


def row_of(app: AppStatus, *, is_page: bool) -> str:
    """One line of the page."""
    name, mount = escape(app.name), escape(app.mount)
    shown = f'<a href="{mount}/">{name}</a>' if is_page else name
    numbers = "".join(f'<td class="number">{number}</td>' for number in (len(app.rooms), app.connections))
    return f"<tr><td>{shown}</td><td><code>{mount}/ROOM</code></td>{numbers}</tr>"
