"""Answers to visitors of `/` and `/APP/` where a site has no page of its own there: as HTML, text or JSON, by `Accept`."""

from collections.abc import Callable, Sequence
from typing import Final

import anyio
import anyio.to_thread
from quart import Response, request

from scalesocket.config.model import App, Site
from scalesocket.logs import printable
from scalesocket.server.http.page import POLICY, render_app, render_front
from scalesocket.server.http.responses import JSON, answer_json
from scalesocket.server.http.views import AppView, view_app, view_apps
from scalesocket.status import SiteView
from scalesocket.wire.accept import choose_named, parse_accept

HTML: Final = "text/html"
TEXT: Final = "text/plain"
VARY: Final = {"Vary": "Accept"}


class Visitors:
    """Answers visitors of one site."""

    def __init__(self, running: SiteView) -> None:
        self._running = running
        self._turn = anyio.Lock()  # one page is written at a time, off the loop: 50 apps take 10 ms

    async def answer_front(self) -> Response:
        """The apps of a site without a page at its root; HTML unless something else is asked for."""
        apps, links = list(view_apps(self._running)), links_of(self._running.site)
        form = _form(HTML)
        if form == JSON:
            return answer_json([describe(app) for app in apps], headers=VARY)
        return await self._answer(form, lambda: render_front(apps, links) if form == HTML else "\n".join(map(format_app, apps)))

    async def answer_app(self, app: App) -> Response:
        """What an app with rooms is, and how to connect to it; text unless something else is asked for, as browsers do."""
        view, links = view_app(self._running, app), links_of(self._running.site)
        form = _form(TEXT)
        if form == JSON:
            return answer_json(describe(view), headers=VARY)
        return await self._answer(form, lambda: render_app(view, links) if form == HTML else format_app(view))

    async def _answer(self, form: str, write: Callable[[], str]) -> Response:
        async with self._turn:
            text = await anyio.to_thread.run_sync(write)
        headers = VARY | ({"Content-Security-Policy": POLICY} if form == HTML else {})
        return Response(text, content_type=f"{form}; charset=utf-8", headers=headers)


def _form(default: str) -> str:
    """The media type that the request asks for by name, else the default."""
    accept = ",".join(request.headers.getlist("Accept"))
    return choose_named(parse_accept(accept), (HTML, TEXT, JSON)) or default


def links_of(site: Site) -> Sequence[str]:
    """What else anybody may ask the server."""
    return [
        "/health",
        *(["/metrics"] if site.server.metrics is True else []),
        *(["/api/apps/"] if site.server.api is True else []),
    ]


def describe(app: AppView) -> dict[str, object]:
    """One app as JSON; `rooms` and `connections` are left out where they are not public."""
    record: dict[str, object] = {"app": app.name, "page": app.page, "websocket": app.socket}
    return record if app.rooms is None else record | {"rooms": app.rooms.number, "connections": app.rooms.clients}


def format_app(app: AppView) -> str:
    """One app for a terminal."""
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
