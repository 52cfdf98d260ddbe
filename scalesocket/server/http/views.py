"""The data of the landing pages: the apps of a site, how to connect to them, and their rooms, if those are public."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from typing import Final, cast

from quart import request

from scalesocket.admission.proxies import resolve_client
from scalesocket.config.model import App
from scalesocket.server.http.surface import Surface
from scalesocket.status import SiteView
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
COMPARED: Final = 500
"""Rooms that are compared for that. A bound, because the pages are public and an app may have very many rooms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomsView:
    """The open rooms of an app."""

    number: int
    clients: int
    shown: Sequence[tuple[str, int]]
    """Names with their numbers of clients; not all of them if there are many."""


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
    rooms: RoomsView | None
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


def view_app(running: SiteView, app: App, *, shown: int = SHOWN) -> AppView:
    """Collect the public data of an app, for the current request."""
    path, base = app.mount.rstrip("/") + "/", find_base(running)
    return AppView(
        name=app.name,
        page=path if app.static is not None else None,
        path=path,
        url=f"http{base}{path}",
        socket=f"ws{base}{path}{ROOM}" if app.has_rooms else None,
        rooms=view_rooms(running, app, shown=shown) if app.has_rooms else None,
    )


def view_apps(running: SiteView) -> Iterator[AppView]:
    """Collect the data of all apps for the front page, in the order of the site file."""
    return (view_app(running, app, shown=SHOWN_IN_FRONT) for app in running.site.apps.values())


def view_rooms(running: SiteView, app: App, *, shown: int) -> RoomsView | None:
    """Collect the open rooms of an app; None unless they are public."""
    if not (Surface.PUBLIC.has_api(running.site.server) and Surface.PUBLIC.lists(app)):
        return None
    pool = running.pools[app.name]
    some = ((name, len(room.clients)) for name, room in islice(pool.rooms.items(), COMPARED))
    fullest = nsmallest(shown, some, key=lambda room: (-room[1], room[0]))
    return RoomsView(number=len(pool.rooms), clients=pool.connections, shown=fullest)


def find_base(running: SiteView) -> str:
    """Return what follows `http` and `ws` in the client's URLs of this server: `s://play.example`, `://localhost:9000`.

    The host is `HOST` if the request has no valid one.
    """
    asked = cast(Mapping[str, Request], request.scope)[REQUEST]
    host = asked.headers.get("host", "")
    is_secure = resolve_client(asked, running.site.server.trusted_proxies).is_secure
    return f"{'s' if is_secure else ''}://{host if parse_authority(host) else 'HOST'}"
