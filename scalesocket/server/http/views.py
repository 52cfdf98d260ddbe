"""What the pages for visitors show of a site: its apps, how to connect to them, and their rooms as far as those are public."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from typing import Final, cast

from quart import request

from scalesocket.admission import seen_through_proxies
from scalesocket.config.model import App
from scalesocket.status import SiteView
from scalesocket.wire.authority import parse_authority
from scalesocket.wire.handshake import Request

REQUEST: Final = "scalesocket.request"
"""Key in the ASGI scope: the request head as admission sees it."""
ROOM: Final = "ROOM"
"""Stands for the name of a room."""
SHOWN: Final = 100
"""Rooms of an app that its page shows, those with the most clients first."""
SHOWN_IN_FRONT: Final = 12
"""Rooms of each app that the front page shows."""
COMPARED: Final = 500
"""Rooms that are compared for that: anybody may ask, often, and an app may have very many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomsView:
    """The open rooms of an app."""

    number: int
    clients: int
    shown: Sequence[tuple[str, int]]
    """Names and their clients; the first of them where there are many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppView:
    """One app as a visitor may see it."""

    name: str
    page: str | None
    """The path of its static files; None without any."""
    path: str
    """Where it is mounted, with a slash at the end."""
    url: str
    """The same with scheme and host."""
    socket: str | None
    """The URL of its rooms, `ROOM` for the name; None for an app that is pages alone."""
    rooms: RoomsView | None
    """None where they are not public, or there are none by nature."""

    def ways(self) -> Mapping[str, str]:
        """How to connect, by what with."""
        if self.socket is None:
            return {}
        word = shlex.quote(self.socket)  # brackets of an IPv6 address mean something to a shell
        return {
            "JavaScript": f'new WebSocket("{self.socket}").onmessage = (event) => console.log(event.data)',
            "websocat": f"websocat {word}",
            "wscat": f"wscat --connect {word}",
        }


def view_app(running: SiteView, app: App, *, shown: int = SHOWN) -> AppView:
    """What a visitor may see of an app, for the request that is being answered."""
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
    """All apps, in the order of the site file, as the front page shows them."""
    return (view_app(running, app, shown=SHOWN_IN_FRONT) for app in running.site.apps.values())


def view_rooms(running: SiteView, app: App, *, shown: int) -> RoomsView | None:
    """The open rooms of an app, if the API is open to everyone."""
    if running.site.server.api is not True:
        return None
    pool = running.pools[app.name]
    some = ((name, len(room.clients)) for name, room in islice(pool.rooms.items(), COMPARED))
    fullest = nsmallest(shown, some, key=lambda room: (-room[1], room[0]))
    return RoomsView(number=len(pool.rooms), clients=pool.connections, shown=fullest)


def find_base(running: SiteView) -> str:
    """What follows `http` and `ws` in URLs of this server, as the client writes them: `s://play.example`, `://localhost:9000`.

    The host is `HOST` where the request names none.
    """
    asked = cast(Mapping[str, Request], request.scope)[REQUEST]
    host = asked.headers.get("host", "")
    is_secure = seen_through_proxies(asked, running.site.server.trusted_proxies).is_secure
    return f"{'s' if is_secure else ''}://{host if parse_authority(host) else 'HOST'}"
