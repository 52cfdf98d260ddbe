"""`/health`: the process responds. `/ready`: it accepts new clients; with the generation in force and the last edit's error."""

from quart import Blueprint, Response

from scalesocket.overview import Overview
from scalesocket.server.http.responses import answer_json


def health_blueprint(overview: Overview) -> Blueprint:
    """Make the routes of both probes."""
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/health")
    async def health() -> Response:
        return answer_json({"status": "ok"})

    @blueprint.get("/ready")
    async def ready() -> Response:
        # A broken edit does not make the server unready: the last good site still runs.
        state = await overview.find_readiness()
        body = {
            "status": state.status,
            "draining": state.is_draining,
            "generation": state.generation,
            "last_error": state.public_error,
        }
        if state.engine is not None:
            body["engine"] = state.engine
        return answer_json(body, 200 if state.status == "ready" else 503)

    return blueprint
