"""Bounds on the replies of the engine, checked before redis-py reads them.

The parsers of redis-py allocate what a reply announces: an array of 1,000,000,000 elements takes 8 GB, and blocks the event loop
for seconds when it is freed. So an address that is no engine of ours, or an engine that is out of order, could stop a node.
"""

import re
from asyncio import StreamReader
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import InvalidResponse

from scalesocket.config.units import KiB, MiB

MAX_ELEMENTS: Final = 100_000
"""Elements of one reply, with those of the arrays in it. A page of the list of rooms has 4,000."""
MAX_SIZE: Final = 64 * MiB
"""Bytes of one reply. A page of rooms with the longest metadata has 8 MiB."""
MAX_LINE: Final = 64 * KiB
"""Bytes of a line, such as the text of an error."""
END: Final = b"\r\n"
_HEADER: Final = re.compile(rb"(?:([$*])(\d{1,20})|[$*]-1|:[-+]?\d{1,20}|[-+].*?)\r\n", re.DOTALL)
"""A line of RESP 2 (redis.io, "Redis serialization protocol specification"): a size, nothing, a number, a string or an error."""


class ReplyBounds:
    """Follows the replies on one connection: their sizes, not their contents."""

    def __init__(self) -> None:
        self._line = b""
        """The begin of a line whose end has not arrived."""
        self._skipped = 0
        """Bytes of a bulk string, with the end of its line, that have not arrived."""
        self._pending = 1
        """Elements of the current reply that are not complete."""
        self._elements = 1
        """All elements of it so far, with those that are announced."""
        self._size = 0
        """Bytes of its bulk strings so far, with those that are announced."""

    def check(self, data: bytes) -> None:
        """Follow the next bytes. Raises InvalidResponse if a reply is too large, or is none."""
        if self._line:
            data, self._line = self._line + data, b""
        at, length = self._skipped, len(data)
        while at < length:
            line = _HEADER.match(data, at)
            if line is None or line.end() - at > MAX_LINE:
                self._keep_line(data, at)
                return
            at = line.end()
            if line[1] is None:
                self._pending -= 1
            elif line[1] == b"$":
                size = int(line[2])
                self._pending -= 1
                self._add(0, size)
                at += size + len(END)
            else:
                elements = int(line[2])
                self._pending += elements - 1
                self._add(elements, 0)
            if not self._pending:
                self._pending = self._elements = 1
                self._size = 0
        self._skipped = at - length

    def _add(self, elements: int, size: int) -> None:
        self._elements += elements
        self._size += size
        if self._elements > MAX_ELEMENTS:
            raise InvalidResponse(f"the engine announced a reply of {self._elements} elements (the limit is {MAX_ELEMENTS})")
        if self._size > MAX_SIZE:
            raise InvalidResponse(f"the engine announced a reply of {self._size} bytes (the limit is {MAX_SIZE})")

    def _keep_line(self, data: bytes, at: int) -> None:
        """Keep a line whose end has not arrived."""
        end = data.find(END, at)
        if (len(data) if end < 0 else end) - at > MAX_LINE:
            raise InvalidResponse(f"the engine sent a line of more than {MAX_LINE} bytes")
        if end >= 0:
            raise InvalidResponse(f"the engine sent what is no reply: {data[at : at + 40]!r}")
        self._line, self._skipped = data[at:], 0


class BoundedReader:
    """The stream that a parser reads from."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader
        self._bounds = ReplyBounds()

    async def read(self, size: int) -> bytes:
        """Read at most so many bytes. Raises InvalidResponse."""
        return self._checked(await self._reader.read(size))

    async def readline(self) -> bytes:
        """Read a line. Raises InvalidResponse."""
        return self._checked(await self._reader.readline())

    async def readexactly(self, size: int) -> bytes:
        """Read so many bytes. Raises InvalidResponse."""
        return self._checked(await self._reader.readexactly(size))

    def at_eof(self) -> bool:
        """Whether all is read, and the engine has closed the connection."""
        return self._reader.at_eof()

    def _checked(self, data: bytes) -> bytes:
        self._bounds.check(data)
        return data


class BoundedParser(DefaultParser):  # type: ignore[misc, valid-type]
    """The parser of redis-py, with hiredis or without."""

    def on_connect(self, connection: AbstractConnection) -> None:
        """Read from a connection that was opened."""
        super().on_connect(connection)
        stream: Any = self._stream
        self._stream: Any = BoundedReader(stream)
