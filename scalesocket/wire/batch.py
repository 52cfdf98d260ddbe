"""A batch: messages in a row that go to the same clients, encoded to frames at most once."""

from collections.abc import Sequence
from typing import Final, NewType

from scalesocket.wire.deflate import deflate
from scalesocket.wire.frames import RSV1, Opcode, encode_frames

ClientId = NewType("ClientId", int)
"""u32 from 1, one counter per server; never used twice while the server runs."""

NOBODY: Final[frozenset[ClientId]] = frozenset()


class Batch:
    """Messages in a row for the same clients. Frozen after it is made; the frames are encoded when first asked for."""

    __slots__ = ("_deflated", "_plain", "cache", "exclude", "opcode", "payloads", "to")

    def __init__(
        self,
        payloads: Sequence[bytes],
        opcode: Opcode = Opcode.TEXT,
        *,
        to: frozenset[ClientId] | None = None,
        exclude: frozenset[ClientId] = NOBODY,
        cache: bool | None = None,
    ) -> None:
        """Hold `payloads` (valid UTF-8 if `opcode` is TEXT).

        `to`: ids of the clients, None for everyone in the room. `exclude`: ids left out. `cache`: what the backend
        said of the room's history (None: nothing).
        """
        self.payloads = payloads
        self.opcode = opcode
        self.to = to
        self.exclude = exclude
        self.cache = cache
        self._plain: bytes | None = None
        self._deflated: bytes | None = None

    @property
    def frames(self) -> bytes:
        """The messages as unmasked, final frames (RFC 6455 5.2), joined."""
        plain = self._plain
        if plain is None:
            plain = self._plain = encode_frames(self.payloads, self.opcode)
        return plain

    @property
    def deflated_frames(self) -> bytes:
        """The same for clients with permessage-deflate: each message is compressed once for all of them."""
        if self._deflated is None:
            self._deflated = encode_frames(map(deflate, self.payloads), self.opcode, RSV1)
        return self._deflated
