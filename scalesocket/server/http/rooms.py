"""The rooms API of each app, in the original's format: `/NAME/api/rooms/`, `/NAME/api/ROOM/` and below.

The app at the root has the same paths without `/NAME`. The API shows all rooms that can be joined, lingering ones with 0
connections.
"""

from msgspec import Raw
from quart import Blueprint, Response
from werkzeug.exceptions import NotFound

from scalesocket.admission.paths import root_app
from scalesocket.config.model import App
from scalesocket.overview import Overview
from scalesocket.server.http.responses import answer_json
from scalesocket.server.http.surface import Surface
from scalesocket.status import HasSite, RoomStatus


def rooms_blueprint(running: HasSite, overview: Overview, surface: Surface) -> Blueprint:
    """Make the routes; 404 where `server.api` does not serve them, and for an app with `listed = false` on the public surface."""
    blueprint = Blueprint("rooms", __name__)

    def find_app(name: str | None) -> App:
        site = running.site
        app = root_app(site) if name is None else site.apps.get(name)
        if app is None or not (surface.has_api(site.server) and surface.lists(app)) or (app.mount == "/") != (name is None):
            raise NotFound
        return app

    async def find_room(name: str | None, room_name: str) -> RoomStatus:
        room = await overview.find_room(find_app(name).name, room_name)
        if room is None:
            raise NotFound
        return room

    @blueprint.get("/api/rooms/", defaults={"name": None})
    @blueprint.get("/<name>/api/rooms/")
    async def rooms(name: str | None) -> Response:
        return answer_json([describe(room) for room in await overview.list_rooms(find_app(name).name)])

    @blueprint.get("/api/<room_name>/", defaults={"name": None})
    @blueprint.get("/<name>/api/<room_name>/")
    async def room(name: str | None, room_name: str) -> Response:
        return answer_json(describe(await find_room(name, room_name)))

    @blueprint.get("/api/<room_name>/connections/", defaults={"name": None})
    @blueprint.get("/<name>/api/<room_name>/connections/")
    async def connections(name: str | None, room_name: str) -> Response:
        return answer_json((await find_room(name, room_name)).connections)

    @blueprint.get("/api/<room_name>/metadata/", defaults={"name": None})
    @blueprint.get("/<name>/api/<room_name>/metadata/")
    async def metadata(name: str | None, room_name: str) -> Response:
        return answer_json(metadata_of(await find_room(name, room_name)))

    return blueprint


def describe(room: RoomStatus) -> dict[str, object]:
    """Describe one room in the original's format."""
    return {"name": room.name, "connections": room.connections, "metadata": metadata_of(room)}


def metadata_of(room: RoomStatus) -> Raw | None:
    """Return the metadata as the backend wrote it."""
    return None if room.metadata is None else Raw(room.metadata)
