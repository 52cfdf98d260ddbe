"""`/health`: the process responds. `/ready`: it accepts new clients; with the generation in force and the last edit's error."""

from quart import Blueprint, Response

from scalesocket.server.http.responses import answer_json
from scalesocket.status import SiteView


def health_blueprint(running: SiteView) -> Blueprint:
    """Make the routes of both probes."""
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/health")
    async def health() -> Response:
        return answer_json({"status": "ok"})

    @blueprint.get("/ready")
    async def ready() -> Response:
        # A broken edit does not make the server unready: the last good site still runs.
        # `status()` takes a millisecond for a thousand rooms, too much for a public path that is polled.
        state, is_draining = running.reload_state, running.is_draining
        body = {
            "status": "draining" if is_draining else "ready",
            "draining": is_draining,
            "generation": state.generation,
            "last_error": state.public_error,
        }
        return answer_json(body, 503 if is_draining else 200)

    return blueprint
