"""`/metrics`, for Prometheus."""

import anyio
import anyio.to_thread
from quart import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from scalesocket.metrics import choose_format, expose
from scalesocket.overview import Overview
from scalesocket.server.http.surface import Surface
from scalesocket.status import HasSite


def scrape_blueprint(running: HasSite, overview: Overview, surface: Surface) -> Blueprint:
    """Make the route; 404 where `server.metrics` does not serve them."""
    blueprint = Blueprint("scrape", __name__)
    # One scrape at a time: twenty threads that rendered a thousand rooms blocked the event loop for up to 0.1 s.
    lock = anyio.Lock()

    @blueprint.get("/metrics")
    async def metrics() -> Response:
        if not surface.has_metrics(running.site.server):
            raise NotFound
        form = choose_format(",".join(request.headers.getlist("Accept")))
        # The snapshot is taken on the event loop; its text, of possibly thousands of rooms, is rendered in a thread.
        async with lock:
            status = await overview.status()
            by_room = running.site.server.metrics_rooms
            unnamed = frozenset(name for name, app in running.site.apps.items() if not surface.lists(app))
            is_public = surface is Surface.PUBLIC
            text = await anyio.to_thread.run_sync(
                lambda: expose(status, by_room=by_room, unnamed=unnamed, form=form, is_public=is_public)
            )
        return Response(text, content_type=form.content_type, headers={"Vary": "Accept"})

    return blueprint
