"""Attempts against a server, and a table of their results."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from tests.playing import Playground
from tests.raw import DEADLINE, RawClient


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt."""

    name: str
    expected: str
    answered: str


Attack = Callable[[], Awaitable[list[Try]]]


def status_of(answer: bytes) -> str:
    """Return the status of a response, or what was received instead."""
    return answer.split(b" ")[1].decode() if answer.startswith(b"HTTP/1.") else "nothing" if not answer else "not HTTP"


async def ask(site: Playground, request: bytes) -> str:
    """Send a request on a connection of the site's lane; return the status of the first response."""
    client = await RawClient.connect(await site.connect())
    async with client:
        client.send(request)
        try:
            async with asyncio.timeout(DEADLINE):
                return status_of(await client.reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError as error:
            return status_of(error.partial)
        except ConnectionError:
            return "reset"


def run(title: str, attack: Attack) -> int:
    """Run an attack and print its table; return 1 if any result differs from the expected one, else 0."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    tries = asyncio.run(_collected(attack))
    width, wide = max(len(one.name) for one in tries), max(len("answered"), *(len(one.answered) for one in tries))
    print(title)
    print(f"  {'tried':{width}}  {'answered':{wide}}  expected")
    for one in tries:
        mark = "" if one.answered == one.expected else "  <- !"
        print(f"  {one.name:{width}}  {one.answered:{wide}}  {one.expected}{mark}")
    return int(any(one.answered != one.expected for one in tries))


async def _collected(attack: Attack) -> list[Try]:
    return await attack()
