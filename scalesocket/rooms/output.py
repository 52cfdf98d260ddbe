"""The output of one room's backend: routed to the clients, or, if that cannot be done, the end of the room."""

from collections.abc import Callable

import structlog

from scalesocket.errors import INTERNAL_ERROR, BackendError, Close, CloseCode
from scalesocket.rooms.codec import Codec
from scalesocket.rooms.delivery import Delivery
from scalesocket.rooms.intake import Intake
from scalesocket.wire.batch import Batch

log = structlog.get_logger("room")


class Output:
    """Receives what the backend of a room writes and reports (`backends.backend.Receiver`)."""

    __slots__ = ("_app", "_codec", "_delivery", "_intake", "_room", "_stop")

    def __init__(
        self, app: str, room: str, *, codec: Codec, delivery: Delivery, intake: Intake, stop: Callable[[Close], None]
    ) -> None:
        """Route by `codec` to `delivery`; call `stop` if that cannot be done. App and room are named in the log."""
        self._app = app
        self._room = room
        self._codec = codec
        self._delivery = delivery
        self._intake = intake
        self._stop = stop

    def backend_output(self, chunk: bytes) -> None:
        """Route one read of the backend's output."""
        delivery = self._delivery
        try:
            for routed in self._codec.route(chunk):
                if type(routed) is Batch:  # nearly always
                    delivery.send(routed)
                else:
                    delivery.carry_out(routed)
        except BackendError as error:
            self._fail(error)
        except Exception:  # output is lost, so the room cannot go on
            log.exception("routing failed", app=self._app, room=self._room)
            self._stop(INTERNAL_ERROR)

    def backend_blocked(self) -> None:
        """Stop reading from the clients until the backend has taken some of its input."""
        self._intake.hold()

    def backend_unblocked(self) -> None:
        """Read from the clients again."""
        self._intake.release()

    def say(self, text: bytes) -> None:
        """Route a record as if the backend had sent it. Raises BackendError if it cannot be routed; the room goes on."""
        for routed in self._codec.route_record(text):
            self._delivery.carry_out(routed)

    def flush(self) -> None:
        """Route what the ended output left without a delimiter."""
        try:
            for routed in self._codec.finish():
                self._delivery.carry_out(routed)
        except BackendError as error:
            self._fail(error)

    def _fail(self, error: BackendError) -> None:
        """End the room: its backend sent what cannot be routed."""
        log.error("backend output invalid", app=self._app, room=self._room, error=str(error))
        self._stop(Close(CloseCode.BACKEND_FAILED, str(error)))
