"""The messages of rooms while they pass, as server-sent events (HTML Standard 9.2)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Final

import anyio
import msgspec
from quart import Response, request

from scalesocket.control.messages import Caller, Tail
from scalesocket.operations.table import Operations

EVENTS: Final = "text/event-stream"
HEARTBEAT: Final = 15.0
"""Seconds without an event after which a comment is sent, so that proxies keep the connection."""
LONGEST: Final = 3600.0
"""Seconds after which a stream ends, also one whose client does not read. It holds one of `MAX_TAILS` places."""
ENDING: Final = 5.0
"""Seconds to send the last event."""


async def answer_tail(operations: Operations, arguments: Tail, caller: Caller) -> Response:
    """Answer with a stream. Raises NotFoundError, and OperationError if there are too many tails."""
    if request.method == "HEAD":  # its response has no body, which would never end
        return Response(b"", content_type=EVENTS)
    stream = stream_tail(operations, arguments, caller)
    first = await anext(stream)
    response = Response(_chain(first, stream), content_type=EVENTS)
    response.timeout = LONGEST + ENDING
    return response


async def stream_tail(operations: Operations, arguments: Tail, caller: Caller) -> AsyncIterator[bytes]:
    """Yield `begin` with the numbers of rooms and clients, a message for each `TailEvent`, and `end` after the last room."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LONGEST
    with closing(await operations.open_tail(arguments, caller)) as tail:
        yield b"event: begin\ndata: " + msgspec.json.encode(tail.outcome) + b"\n\n"
        while (left := deadline - loop.time()) > 0:
            lines: bytes | None = b""
            with anyio.move_on_after(min(HEARTBEAT, left)):
                lines = await tail.read()
            if lines is None:
                break
            yield b"".join(b"data: " + line + b"\n\n" for line in lines.splitlines()) or b":\n\n"
    yield b"event: end\ndata: {}\n\n"


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
