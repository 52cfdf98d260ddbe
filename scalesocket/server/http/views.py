"""The data of the landing pages: the apps of a site, how to connect to them, and their rooms, if those are public."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from quart import request

from scalesocket.admission.proxies import resolve_client
from scalesocket.config.model import App
from scalesocket.overview import Overview, RoomsSummary
from scalesocket.server.http.surface import Surface
from scalesocket.status import HasSite
from scalesocket.wire.authority import parse_authority
from scalesocket.wire.handshake import Request

REQUEST: Final = "scalesocket.request"
"""Key in the ASGI scope: the request head, as admission reads it."""
ROOM: Final = "ROOM"
"""The placeholder for the name of a room."""
SHOWN: Final = 100
"""Rooms that an app's page shows, those with the most clients first."""
SHOWN_IN_FRONT: Final = 12
"""Rooms of each app that the front page shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppView:
    """The public data of one app."""

    name: str
    page: str | None
    """The path of its static files, if it has any."""
    path: str
    """Its mount, with a final slash."""
    url: str
    """The URL of `path`."""
    socket: str | None
    """The URL of its rooms, with `ROOM` for the name; None for an app without rooms."""
    rooms: RoomsSummary | None
    """None if they are not public, or the app has no rooms."""

    def ways(self) -> Mapping[str, str]:
        """Return code or a command to connect, by client."""
        if self.socket is None:
            return {}
        word = shlex.quote(self.socket)  # the brackets of an IPv6 address are special in a shell
        return {
            "JavaScript": f'new WebSocket("{self.socket}").onmessage = (event) => console.log(event.data)',
            "websocat": f"websocat {word}",
            "wscat": f"wscat --connect {word}",
        }


async def view_app(running: HasSite, overview: Overview, app: App) -> AppView:
    """Collect the public data of an app, for the current request."""
    rooms = await overview.summarize([app.name], SHOWN) if has_public_rooms(running, app) else {}
    return make_view(running, app, rooms.get(app.name))


async def view_apps(running: HasSite, overview: Overview) -> Sequence[AppView]:
    """Collect the data of all apps for the front page, in the order of the site file."""
    apps = running.site.apps.values()
    public = [app.name for app in apps if has_public_rooms(running, app)]
    rooms = await overview.summarize(public, SHOWN_IN_FRONT) if public else {}
    return [make_view(running, app, rooms.get(app.name)) for app in apps]


def make_view(running: HasSite, app: App, rooms: RoomsSummary | None) -> AppView:
    """Make the view of an app. `rooms`: None unless they are public."""
    path, base = app.mount.rstrip("/") + "/", find_base(running)
    return AppView(
        name=app.name,
        page=path if app.static is not None else None,
        path=path,
        url=f"http{base}{path}",
        socket=f"ws{base}{path}{ROOM}" if app.has_rooms else None,
        rooms=rooms,
    )


def has_public_rooms(running: HasSite, app: App) -> bool:
    """Whether everybody may see the rooms of an app."""
    return app.has_rooms and Surface.PUBLIC.has_api(running.site.server) and Surface.PUBLIC.lists(app)


def find_base(running: HasSite) -> str:
    """Return what follows `http` and `ws` in the client's URLs of this server: `s://play.example`, `://localhost:9000`.

    The host is `HOST` if the request has no valid one.
    """
    asked = cast(Mapping[str, Request], request.scope)[REQUEST]
    host = asked.headers.get("host", "")
    is_secure = resolve_client(asked, running.site.server.trusted_proxies).is_secure
    return f"{'s' if is_secure else ''}://{host if parse_authority(host) else 'HOST'}"
