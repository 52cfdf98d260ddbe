"""Batches: consecutive messages for the same clients, encoded to frames at most once."""

from collections.abc import Sequence
from typing import Final, NewType

from scalesocket.wire.deflate import MAX_WINDOW, deflate
from scalesocket.wire.frames import RSV1, Opcode, encode_frames

ClientId = NewType("ClientId", int)
"""A u32 from 1, unique while the server runs."""

NOBODY: Final[frozenset[ClientId]] = frozenset()


class Batch:
    """Consecutive messages for the same clients. Immutable; the frames are encoded on first use."""

    __slots__ = ("_deflated", "_narrow", "_plain", "cache", "exclude", "opcode", "payloads", "to")

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

        `to`: ids of the recipients, None for everyone in the room. `exclude`: ids that are left out. `cache`: whether the
        messages enter the room's history, None if the backend did not specify it.
        """
        self.payloads = payloads
        self.opcode = opcode
        self.to = to
        self.exclude = exclude
        self.cache = cache
        self._plain: bytes | None = None
        self._deflated: bytes | None = None
        self._narrow: dict[int, bytes] | None = None  # the same by smaller windows

    @property
    def frames(self) -> bytes:
        """The messages as unmasked, final frames (RFC 6455 5.2), joined."""
        plain = self._plain
        if plain is None:
            plain = self._plain = encode_frames(self.payloads, self.opcode)
        return plain

    def deflated_frames(self, window: int = MAX_WINDOW) -> bytes:
        """Return the same for clients with permessage-deflate and a window of so many bits.

        Each message is compressed once for all clients, and once more for each smaller window that makes a difference.
        """
        if window < MAX_WINDOW and max(map(len, self.payloads), default=0) >> window:
            return self._deflate_narrow(window)
        if self._deflated is None:
            self._deflated = encode_frames(map(deflate, self.payloads), self.opcode, RSV1)
        return self._deflated

    def _deflate_narrow(self, window: int) -> bytes:
        if self._narrow is None:
            self._narrow = {}
        frames = self._narrow.get(window)
        if frames is None:
            deflated = [deflate(payload, window) for payload in self.payloads]
            frames = self._narrow[window] = encode_frames(deflated, self.opcode, RSV1)
        return frames
