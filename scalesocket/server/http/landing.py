"""Landing pages for `/` and `/APP/`, if the site has no file there: as HTML, text or JSON, by `Accept`."""

from collections.abc import Callable, Sequence
from typing import Final

import anyio
import anyio.to_thread
from quart import Response, request

from scalesocket.config.model import App, Site
from scalesocket.logs import printable
from scalesocket.overview import Overview
from scalesocket.server.http.page import POLICY, render_app, render_front
from scalesocket.server.http.responses import JSON, answer_json
from scalesocket.server.http.surface import Surface
from scalesocket.server.http.views import AppView, view_app, view_apps
from scalesocket.status import HasSite
from scalesocket.wire.accept import choose_named, parse_accept

HTML: Final = "text/html"
TEXT: Final = "text/plain"
VARY: Final = {"Vary": "Accept"}


class LandingPages:
    """The front page of one site, and the pages of its apps."""

    def __init__(self, running: HasSite, overview: Overview) -> None:
        self._running = running
        self._overview = overview
        self._lock = anyio.Lock()  # one page is rendered at a time, in a thread: 50 apps take 10 ms

    async def answer_front(self) -> Response:
        """Answer with the list of apps; as HTML unless `Accept` names another type."""
        apps, links = await view_apps(self._running, self._overview), links_of(self._running.site)
        form = _form(HTML)
        if form == JSON:
            return answer_json([describe(app) for app in apps], headers=VARY)
        return await self._respond(form, lambda: render_front(apps, links) if form == HTML else "\n".join(map(format_app, apps)))

    async def answer_app(self, app: App) -> Response:
        """Answer how to connect to an app with rooms; as text unless `Accept` names another type, as browsers do."""
        view, links = await view_app(self._running, self._overview, app), links_of(self._running.site)
        form = _form(TEXT)
        if form == JSON:
            return answer_json(describe(view), headers=VARY)
        return await self._respond(form, lambda: render_app(view, links) if form == HTML else format_app(view))

    async def _respond(self, form: str, render: Callable[[], str]) -> Response:
        async with self._lock:
            text = await anyio.to_thread.run_sync(render)
        headers = VARY | ({"Content-Security-Policy": POLICY} if form == HTML else {})
        return Response(text, content_type=f"{form}; charset=utf-8", headers=headers)


def _form(default: str) -> str:
    """Choose the media type that the request's `Accept` names, else the default."""
    accept = ",".join(request.headers.getlist("Accept"))
    return choose_named(parse_accept(accept), (HTML, TEXT, JSON)) or default


def links_of(site: Site) -> Sequence[str]:
    """List the other public paths of the server."""
    return [
        "/health",
        *(["/metrics"] if Surface.PUBLIC.has_metrics(site.server) else []),
        *(["/api/apps/"] if Surface.PUBLIC.has_api(site.server) else []),
    ]


def describe(app: AppView) -> dict[str, object]:
    """Describe one app for JSON; without `rooms` and `connections` if those are not public."""
    record: dict[str, object] = {"app": app.name, "page": app.page, "websocket": app.socket}
    return record if app.rooms is None else record | {"rooms": app.rooms.number, "connections": app.rooms.clients}


def format_app(app: AppView) -> str:
    """Describe one app for a terminal."""
    lines = [app.name]
    if app.page is not None:
        lines.append(f"  page       {app.page}")
    if app.socket is not None:
        lines.append(f"  websocket  {app.socket} (everyone with the same ROOM is in the same room)")
        lines += [f"  {name:9}  {way}" for name, way in app.ways().items() if name != "JavaScript"]
    if app.rooms is not None:
        clients = f", with {app.rooms.clients} client{'' if app.rooms.clients == 1 else 's'}" if app.rooms.number else ""
        lines.append(f"  rooms      {app.rooms.number} open{clients}")
        lines += [f"    {printable(name)}  {clients}" for name, clients in app.rooms.shown]
        if (more := app.rooms.number - len(app.rooms.shown)) > 0:
            lines.append(f"    and {more} more")
    return "\n".join(lines) + "\n"
