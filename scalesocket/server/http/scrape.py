"""`/metrics`, for Prometheus."""

import anyio
import anyio.to_thread
from quart import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from scalesocket.metrics import choose_format, expose
from scalesocket.status import SiteView


def scrape_blueprint(running: SiteView) -> Blueprint:
    """Make the route; 404 while `server.metrics` is false."""
    blueprint = Blueprint("scrape", __name__)
    # One scrape at a time: twenty threads that rendered a thousand rooms blocked the event loop for up to 0.1 s.
    lock = anyio.Lock()

    @blueprint.get("/metrics")
    async def metrics() -> Response:
        if not running.site.server.metrics:
            raise NotFound
        form = choose_format(",".join(request.headers.getlist("Accept")))
        # The snapshot is taken on the event loop; its text, of possibly thousands of rooms, is rendered in a thread.
        async with lock:
            status = running.status()
            by_room = running.site.server.metrics_rooms
            text = await anyio.to_thread.run_sync(lambda: expose(status, by_room=by_room, form=form))
        return Response(text, content_type=form.content_type, headers={"Vary": "Accept"})

    return blueprint
