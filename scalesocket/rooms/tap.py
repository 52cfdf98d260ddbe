"""Taps: observers of one room's messages. A room without taps has no trace of them on its way of messages."""

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Final, Protocol

import structlog

from scalesocket.errors import Close
from scalesocket.wire.batch import NOBODY, Batch, ClientId
from scalesocket.wire.frames import Event
from scalesocket.wire.routed import Drop

log = structlog.get_logger("room")

TAP_FAILED: Final = "tap of a room failed"

Encode = Callable[[ClientId, Sequence[Event]], tuple[bytes, Sequence[Drop]]]
"""Encodes messages of one client as one write for the backend; see `wire.routing.Encoder`."""


class Tap(Protocol):
    """Observes one room. Its calls must be fast: they happen on the way of the messages."""

    def received(self, client: ClientId, messages: Sequence[Event]) -> None:
        """Note messages of a client, before they are encoded for the backend."""

    def sent(self, batch: Batch) -> None:
        """Note messages of the backend, after they were sent to the clients."""

    def room_ended(self) -> None:
        """Note the end of the room; no other call follows."""


class Recipients(Protocol):
    """Where the messages of a backend are delivered: a part of `edge.ports.RoomAudience`."""

    def broadcast(self, batch: Batch, exclude: Container[ClientId] = ()) -> None:
        """Send a batch to all clients but those in `exclude`."""

    def send(self, ids: Iterable[ClientId], batch: Batch, exclude: Container[ClientId] = ()) -> None:
        """Send a batch to those of these clients that are here."""

    def expel(self, member: ClientId, close: Close) -> None:
        """Close a client and have it leave its room."""


class TappedRecipients:
    """Passes messages on to other recipients, and shows them to taps."""

    __slots__ = ("_recipients", "_taps")

    def __init__(self, recipients: Recipients, taps: Sequence[Tap]) -> None:
        """Deliver to `recipients`."""
        self._recipients = recipients
        self._taps = taps

    def broadcast(self, batch: Batch, exclude: Container[ClientId] = NOBODY) -> None:
        """Send a batch to all clients but those in `exclude`."""
        self._recipients.broadcast(batch, exclude)
        self._show(batch)

    def send(self, ids: Iterable[ClientId], batch: Batch, exclude: Container[ClientId] = NOBODY) -> None:
        """Send a batch to those of these clients that are here."""
        self._recipients.send(ids, batch, exclude)
        self._show(batch)

    def expel(self, member: ClientId, close: Close) -> None:
        """Close a client and have it leave its room."""
        self._recipients.expel(member, close)

    def _show(self, batch: Batch) -> None:
        for tap in self._taps:
            try:
                tap.sent(batch)
            except Exception:
                log.exception(TAP_FAILED)


def tap_encoder(encode: Encode, taps: Sequence[Tap]) -> Encode:
    """Return `encode`, which also shows the messages to taps."""

    def encode_and_show(client: ClientId, messages: Sequence[Event]) -> tuple[bytes, Sequence[Drop]]:
        for tap in taps:
            try:
                tap.received(client, messages)
            except Exception:
                log.exception(TAP_FAILED)
        return encode(client, messages)

    return encode_and_show
