"""Request smuggling: requests whose end is ambiguous, each followed by a second request."""

import asyncio
import sys
from typing import Final

from tests.attacks.tries import Try, run, status_of
from tests.playing import Playground, open_playground, site_of
from tests.raw import DEADLINE, RawClient, upgrade

HEAD: Final = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
HIDDEN: Final = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKS: Final = b"0\r\n\r\n"
TWICE: Final = HEAD + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(CHUNKS + HIDDEN) + CHUNKS + HIDDEN
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS + HIDDEN
LENGTH: Final = b"Content-Length: 50\r\n\r\n" + HIDDEN
UPGRADE: Final = upgrade("/chat/one").removesuffix(b"\r\n")

TRIES: Final = {
    "two lengths": ("200, closed", TWICE),
    "two lengths, on a kept connection": ("200 200, closed", HEAD + b"\r\n" + TWICE),
    "two lengths, the other way round": (
        "200, closed",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + CHUNKS + HIDDEN,
    ),
    "two different lengths": ("400, closed", HEAD + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n" + HIDDEN),
    "an invalid length": ("400, closed", HEAD + b"Content-Length: +5\r\n\r\n" + HIDDEN),
    "another coding": ("501, closed", HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + HIDDEN),
    "a coding of HTTP/1.0": ("400, closed", HEAD.replace(b"1.1", b"1.0") + CHUNKED),
    "a space before the colon": ("400, closed", HEAD + b"Content-Length : 50\r\n\r\n" + HIDDEN),
    "LF alone": ("400, closed", HEAD.replace(b"\r\n", b"\n") + b"\n" + HIDDEN),
    "LF alone in one line": ("400, closed", HEAD + b"X: y\nContent-Length: 50\r\n\r\n" + HIDDEN),
    "an upgrade with a length": ("400, closed", UPGRADE + LENGTH),
    "an upgrade with two lengths": ("400, closed", UPGRADE + b"Content-Length: 5\r\n" + CHUNKED),
    "an upgrade with a body, on a kept connection": ("200 400, closed", HEAD + b"\r\n" + UPGRADE + LENGTH),
    "an upgrade with LF alone": ("400, closed", upgrade("/chat/one").replace(b"\r\n", b"\n") + HIDDEN),
}
"""By name: the expected result, and the bytes that are sent at once."""


async def attack() -> list[Try]:
    """Try each on a connection of its own."""
    async with open_playground(site_of({"chat": {"command": ["cat"]}})) as site:
        return [Try(name, expected, await answers(site, request)) for name, (expected, request) in TRIES.items()]


async def answers(site: Playground, request: bytes) -> str:
    """Send a request; return the statuses of all responses, and whether the server closes then."""
    async with await RawClient.connect(site.port) as client:
        client.send(request)
        answer, end = b"", "open"
        try:
            async with asyncio.timeout(DEADLINE / 5):
                while chunk := await client.reader.read(65536):
                    answer += chunk
                end = "closed"
        except TimeoutError:
            pass
        except ConnectionError:
            end = "reset"
    statuses = (status_of(b"HTTP/1." + part) for part in answer.split(b"HTTP/1.")[1:])
    return f"{' '.join(statuses)}, {end}"


if __name__ == "__main__":
    sys.exit(run("Request smuggling", attack))
