"""Sentinel: which of several engines is the primary now."""

import asyncio
from typing import Final

from redis.exceptions import RedisError

from scalesocket.cluster.link import EngineUnavailableError, describe, discard, make_connection
from scalesocket.config.addresses import Endpoint
from scalesocket.config.urls import SENTINEL, parse_sentinels

TIMEOUT: Final = 0.5
"""Seconds for the answer of one sentinel. Then the next is asked."""


async def find_primary(url: str) -> str:
    """Return the URL of the engine behind `url`, which may be one of sentinels. Raises EngineUnavailableError."""
    if not url.startswith(SENTINEL):
        return url
    sentinels = parse_sentinels(url)
    fault = "no sentinel answers"
    for address in sentinels.addresses:
        try:
            async with asyncio.timeout(TIMEOUT):
                found = await _ask(address, sentinels.service)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            fault = f"no sentinel answers: {describe(error)}"
            continue
        if found is not None:
            return sentinels.url.format(found)
        fault = f"no sentinel knows {sentinels.service!r}"
    raise EngineUnavailableError(fault)


async def _ask(address: Endpoint, service: str) -> Endpoint | None:
    connection = make_connection(f"redis://{address}", "scalesocket", TIMEOUT)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        found = await connection.read_response(disable_decoding=True)
    finally:
        await discard(connection)
    return Endpoint(found[0].decode(), int(found[1])) if found else None
