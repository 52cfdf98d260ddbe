"""Delivery of a backend's output: messages to the audience and the history, instructions to whatever they concern."""

from typing import assert_never

import structlog

from scalesocket.errors import Close
from scalesocket.rooms.history import History
from scalesocket.rooms.tap import Recipients
from scalesocket.status import Counts
from scalesocket.wire.batch import Batch
from scalesocket.wire.routing import CloseClients, Drop, Metadata, Notice, Routed

log = structlog.get_logger("room")


class Delivery:
    """Carries out what the router made of one room's output."""

    __slots__ = ("_app", "_counts", "_history", "_logged", "_room", "metadata", "recipients")

    def __init__(self, app: str, room: str, *, recipients: Recipients, history: History | None, counts: Counts) -> None:
        """Deliver to `recipients` and `history`. App and room are named in the log."""
        self._app = app
        self._room = room
        self.recipients = recipients
        """The clients of the room. A tap is put in between while there is one."""
        self._history = history
        self._counts = counts
        self._logged: set[str] = set()
        self.metadata: bytes | None = None
        """The JSON object that the running backend set by `_meta`."""

    def send(self, batch: Batch) -> None:
        """Send a batch to its receivers, and remember it for new clients."""
        if batch.to is None:
            self.recipients.broadcast(batch, batch.exclude)
        else:
            self.recipients.send(batch.to, batch, batch.exclude)
        self._counts.records_out += len(batch.payloads)
        if self._history is not None:
            self._history.remember(batch)

    def carry_out(self, routed: Routed) -> None:
        """Carry out a message or an instruction of the backend."""
        match routed:
            case Batch():
                self.send(routed)
            case Metadata():
                self.metadata = routed.value
            case CloseClients():
                for member in sorted(routed.to):
                    self.recipients.expel(member, Close(routed.code, routed.reason))
            case Drop():
                self.drop(routed)
            case Notice():
                self._log_once(routed.reason)
            case _:
                assert_never(routed)

    def drop(self, drop: Drop) -> None:
        """Count a message, or an instruction in one, that was not carried out."""
        self._counts.messages_dropped += 1
        self._log_once(f"not carried out: {drop.reason}")

    def _log_once(self, event: str) -> None:
        """Log a fault of messages once for a room."""
        if event not in self._logged:
            self._logged.add(event)
            log.warning(event, app=self._app, room=self._room)
