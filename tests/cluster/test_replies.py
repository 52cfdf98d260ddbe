"""Bounds on the replies of the engine: real replies pass at every cut, and one that is too large breaks only the connection."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.exceptions import InvalidResponse

from scalesocket.cluster.engine import Engine
from scalesocket.cluster.link import EngineUnavailableError
from scalesocket.cluster.replies import MAX_ELEMENTS, MAX_LINE, MAX_SIZE, ReplyBounds

REPLIES = (
    b"+OK\r\n-ERR it says\rno\r\n:-12\r\n$-1\r\n*-1\r\n*0\r\n$0\r\n\r\n"
    b"*3\r\n$5\r\nrooms\r\n*2\r\n:7\r\n$15\r\n*1000000000\r\n\r\n\r\n*1\r\n$2\r\n\r\n\r\n"
)
HUGE = {
    "an array": b"*1000000000\r\n",
    "an array in an array": b"*2\r\n:1\r\n*1000000000\r\n",
    "many arrays in one": b"*50000\r\n" + b"*2\r\n:1\r\n:1\r\n" * 30_000,
    "a string": b"$1000000000\r\n",
    "many strings": b"*3\r\n" + b"$%d\r\n" % (MAX_SIZE // 2),
    "a line": b"+" + b"x" * (MAX_LINE + 1),
    "a line that ends": b"-" + b"x" * (MAX_LINE + 1) + b"\r\n",
    "a map of RESP 3": b"%1000000000\r\n",
    "a web server": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


def cuts() -> Iterator[tuple[bytes, ...]]:
    for at in range(len(REPLIES) + 1):
        yield REPLIES[:at], REPLIES[at:]
    yield tuple(bytes((byte,)) for byte in REPLIES)


def test_replies_pass_at_every_cut_whatever_their_strings_contain() -> None:
    for parts in cuts():
        bounds = ReplyBounds()
        for part in parts:
            bounds.check(part)
        bounds.check(b"*1\r\n" * 9 + b":1\r\n")  # they were complete
        with pytest.raises(InvalidResponse):
            bounds.check(HUGE["an array"])


def test_each_reply_may_be_as_large_as_the_bounds() -> None:
    bounds = ReplyBounds()
    for _ in range(3):
        bounds.check(b"*%d\r\n" % (MAX_ELEMENTS - 1) + b":1\r\n" * (MAX_ELEMENTS - 1))
        bounds.check(b"$%d\r\n" % MAX_SIZE)
        for _ in range(64):
            bounds.check(bytes(MAX_SIZE // 64))
        bounds.check(b"\r\n")

    with pytest.raises(InvalidResponse):
        bounds.check(b"*%d\r\n" % MAX_ELEMENTS)


@pytest.mark.parametrize("kind", HUGE)
def test_a_reply_beyond_the_bounds_is_refused_as_soon_as_it_is_announced(kind: str) -> None:
    bounds = ReplyBounds()
    text = HUGE[kind]
    if kind == "many strings":
        bounds.check(text)
        bounds.check(bytes(MAX_SIZE // 2) + b"\r\n")
        text = b"$%d\r\n" % (MAX_SIZE // 2 + 1)

    with pytest.raises(InvalidResponse, match=r"the engine (announced|sent)"):
        bounds.check(text)


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[str]:
    """An engine that answers the PINGs of one connection after the other with these; all other commands with OK."""
    left = iter(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = next(left)
        while data := await reader.read(1 << 16):
            for _ in range(data.count(b"*")):
                writer.write(answer if b"PING" in data else b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_engine_that_announces_too_much_gets_a_new_connection() -> None:
    async with answering(HUGE["an array"], b"+PONG\r\n") as url:
        engine = Engine(url, name="scalesocket:test", patience=10.0)
        try:
            with pytest.raises(EngineUnavailableError, match="the engine announced a reply of 1000000001 elements"):
                await engine.call("PING", timeout=10.0)
            assert await engine.call("PING", timeout=10.0) == b"PONG"
        finally:
            await engine.close()
