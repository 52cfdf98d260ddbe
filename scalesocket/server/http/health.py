"""`/health`: the process answers. `/ready`: it takes new clients; with the generation it runs and the last error of an edit."""

from typing import TYPE_CHECKING

from quart import Blueprint, Response

from scalesocket.server.http.answers import answer_json

if TYPE_CHECKING:
    from scalesocket.gateway import Gateway


def health_blueprint(gateway: "Gateway") -> Blueprint:
    """Both probes of one gateway."""
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/health")
    async def health() -> Response:
        return answer_json({"status": "ok"})

    @blueprint.get("/ready")
    async def ready() -> Response:
        # A broken edit does not make the server unready: the last good site runs on.
        status = gateway.status()
        body = {
            "status": "draining" if status.is_draining else "ready",
            "draining": status.is_draining,
            "generation": status.generation,
            "last_error": status.public_error,
        }
        return answer_json(body, 503 if status.is_draining else 200)

    return blueprint
