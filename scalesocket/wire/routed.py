"""What routing makes of a backend's output: values for the room to act on, in order."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scalesocket.errors import BackendError
from scalesocket.wire.batch import Batch, ClientId


@dataclass(frozen=True, slots=True)
class Metadata:
    """Becomes the room's metadata, in place of what it had; sent to nobody."""

    value: bytes
    """A JSON object."""


@dataclass(frozen=True, slots=True)
class CloseClients:
    """Close these clients, after what was sent to them before."""

    to: frozenset[ClientId]
    code: int
    """1000 or 4000 to 4999."""
    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """A message, or a wish in one, that was not carried out; to be counted, and each reason logged once a room."""

    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that had to be mended on the way, and nothing was lost; each reason is logged once a room."""

    reason: str


Routed = Batch | Metadata | CloseClients | Drop | Notice
"""One of the values above, or messages in a row for the same clients. A batch for no client at all is still counted."""


def then_raise(routed: Iterable[Routed], error: BackendError) -> Iterator[Routed]:
    """Give what was good before the backend broke its contract, then raise."""
    yield from routed
    raise error
