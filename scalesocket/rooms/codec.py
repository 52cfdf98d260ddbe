"""The codec of one room: the routing of its app in both directions, and the join and leave messages."""

from collections.abc import Iterator, Sequence
from typing import Final

from scalesocket.config.model import App
from scalesocket.edge.ports import Member
from scalesocket.rooms.tap import Encode, Tap, tap_encoder
from scalesocket.wire.batch import ClientId
from scalesocket.wire.gwsocket import GwsocketEncoder
from scalesocket.wire.routing import Routed, Router, make_encoder, make_router
from scalesocket.wire.template import UNKNOWN, ClientIdentity, Template, parse_template

NO_RECORD: Final = b""
EVERYONE: Final = ClientId(0)
"""The id of all clients in gwsocket."""


class Codec:
    """Encodes messages of clients as records for the backend and decodes its output, by the settings that the room opened with.

    `encode` is the encoder's, `route` and `finish` are, from `begin` on, those of the running backend's router.
    """

    __slots__ = ("_app", "_encoder", "_join", "_leave", "_room", "encode", "finish", "route")

    def __init__(self, app: App, room: str) -> None:
        """Use the routing of `app`."""
        self._app = app
        self._room = room
        self._encoder = make_encoder(
            app.routing.client,
            binary=app.binary,
            delimiter=app.delimiter,
            input_end=app.input_end,
            byte_order=app.byte_order,
            client_keys=app.client_keys,
        )
        self.encode: Encode = self._encoder.encode
        self._join: Template | None = None
        self._leave: Template | None = None
        self.apply(app)

    def show_input(self, taps: Sequence[Tap]) -> None:
        """Show messages of clients to these taps, from now on and to no others."""
        self.encode = tap_encoder(self._encoder.encode, taps) if taps else self._encoder.encode

    def begin(self) -> None:
        """Decode the output of a new backend; an unfinished record of the last one is forgotten."""
        router = self._make_router()
        self.route = router.route
        self.finish = router.finish

    def route_record(self, text: bytes) -> Iterator[Routed]:
        """Decode one record beside the output of the backend. With gwsocket it is a text message to everyone.

        The iterator raises BackendError.
        """
        router, app = self._make_router(), self._app
        if app.routing.server == "gwsocket":
            text = GwsocketEncoder(app.byte_order, NO_RECORD).encode_text(EVERYONE, text)
        yield from router.route(text)
        yield from router.finish()

    def _make_router(self) -> Router:
        app = self._app
        return make_router(
            app.routing.server,
            binary=app.binary,
            delimiter=app.delimiter,
            byte_order=app.byte_order,
            max_record=app.max_record,
        )

    def apply(self, app: App) -> None:
        """Take on the join and leave messages, which are live; the rest stays as it is."""
        self._join, self._leave = (
            parse_template(message, self._app.delimiter, has_identity=app.auth is not None) if message else None
            for message in (app.join_message, app.leave_message)
        )

    def join_record(self, client: Member) -> bytes:
        """Return the join record of a client; empty without `join_message`."""
        return self._record(self._join, client)

    def leave_record(self, client: Member) -> bytes:
        """Return the leave record of a client; empty without `leave_message`."""
        return self._record(self._leave, client)

    def _record(self, template: Template | None, client: Member) -> bytes:
        if template is None:
            return NO_RECORD
        who = client.identity
        names = UNKNOWN if who is None else ClientIdentity(who.user, who.role_names, who.info)
        return self._encoder.encode_text(client.id, template.render(client.id, self._room, client.remote, client.query, names))
