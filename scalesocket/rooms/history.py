"""The history of a room: the last broadcast messages, which are replayed to new clients."""

from collections import deque
from itertools import groupby
from operator import itemgetter
from typing import Literal, TypedDict

from scalesocket.wire.batch import Batch
from scalesocket.wire.frames import Opcode

Keep = Literal["all", "tagged"]


class Bounds(TypedDict):
    """What a history keeps; see `History`."""

    size: int
    keep: Keep
    max_bytes: int


class History:
    """The last broadcast messages, oldest first.

    Bounded by number and by bytes of payload; when it is full, the oldest messages are dropped. A message larger than
    `max_bytes` is not kept. A replay keeps the bytes a second time, as frames, until the next message.
    """

    __slots__ = ("_bytes", "_keep", "_max_bytes", "_messages", "_replay", "_size")

    def __init__(self, *, size: int, keep: Keep, max_bytes: int) -> None:
        """Keep up to `size` messages and `max_bytes` bytes of them.

        `keep`: `all` for all messages without `_cache: false`, `tagged` for those with `_cache: true`.
        """
        self._size = size
        self._keep: Keep = keep
        self._max_bytes = max_bytes
        self._messages: deque[tuple[Opcode, bytes]] = deque()
        self._bytes = 0
        self._replay: list[Batch] | None = None

    def apply(self, *, size: int, keep: Keep, max_bytes: int) -> None:
        """Take on other bounds; messages that still fit are kept."""
        self._size, self._keep, self._max_bytes = size, keep, max_bytes
        self._trim()
        self._replay = None

    def remember(self, batch: Batch) -> None:
        """Keep the messages of a broadcast, even if it excluded clients; never those sent to named clients."""
        if batch.to is not None or batch.cache is False or (self._keep == "tagged" and not batch.cache):
            return
        messages = self._messages
        fitting = [payload for payload in batch.payloads if len(payload) <= self._max_bytes]
        for payload in fitting[-self._size :]:
            messages.append((batch.opcode, payload))
            self._bytes += len(payload)
        self._trim()
        self._replay = None

    def _trim(self) -> None:
        messages = self._messages
        while len(messages) > self._size or self._bytes > self._max_bytes:
            self._bytes -= len(messages.popleft()[1])

    def replay(self) -> list[Batch]:
        """Return the batches for a new client. Until the next message the list is the same, so its frames are encoded once."""
        if self._replay is None:
            self._replay = [
                Batch([payload for _, payload in messages], opcode)
                for opcode, messages in groupby(self._messages, key=itemgetter(0))
            ]
        return self._replay
