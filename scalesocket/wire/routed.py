"""The results of routing a backend's output, for the room to carry out in order."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scalesocket.errors import BackendError
from scalesocket.wire.batch import Batch, ClientId


@dataclass(frozen=True, slots=True)
class Metadata:
    """Replaces the room's metadata. Not sent to clients."""

    value: bytes
    """A JSON object."""


@dataclass(frozen=True, slots=True)
class CloseClients:
    """Close these clients, after the messages before it."""

    to: frozenset[ClientId]
    code: int
    """1000, 4000 to 4399 or 4500 to 4999. The others of 4000 to 4999 belong to the server."""
    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """A message or command that was not carried out. Counted, and each reason is logged once for each room."""

    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A problem that was corrected without loss of messages. Each reason is logged once for each room."""

    reason: str


Routed = Batch | Metadata | CloseClients | Drop | Notice
"""A batch, or one of the values above. A batch without recipients is still counted."""


def then_raise(routed: Iterable[Routed], error: BackendError) -> Iterator[Routed]:
    """Yield the valid results before an error of the backend, then raise it."""
    yield from routed
    raise error
