"""The engine (Redis or Valkey) as its callers see it: it answers in time, or the call fails."""

import asyncio
from collections.abc import Sequence
from typing import Final

from scalesocket.cluster.link import Answer, EngineRefusedError, EngineUnavailableError, Link, Word, open_link
from scalesocket.cluster.scripts import Script
from scalesocket.cluster.sentinel import find_primary

CONNECT_TIMEOUT: Final = 2.0
"""Seconds to connect and to log in."""
PAUSE: Final = 0.1
"""Seconds after a failed connection in which calls fail at once."""


class Engine:
    """One connection, opened when it is needed, and again after it broke. Calls are sent in order; none is sent twice."""

    def __init__(self, url: str, *, name: str, patience: float) -> None:
        """Connect to `url`. `name` is shown in the engine's list of clients; it has no spaces.

        A connection on which no answer comes for `patience` seconds is replaced.
        """
        self._patience = patience
        self._url = url
        self.address = url
        """The URL of the engine itself, where `url` is that of sentinels; known after the first connection."""
        self._name = name
        self._link: Link | None = None
        self._connecting: asyncio.Task[Link] | None = None
        self._refused_until = 0.0
        self._fault = ""
        self._is_closed = False

    @property
    def is_up(self) -> bool:
        """Whether there is a connection."""
        return self._link is not None and self._link.is_open

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Word], *, timeout: float) -> Answer:
        """Run a script, and return its answer. Raises EngineError, `timeout` seconds from now at the latest."""
        words = (len(keys), *keys, *arguments)
        ends_at = asyncio.get_running_loop().time() + timeout
        try:
            return await self.call("EVALSHA", script.digest, *words, timeout=timeout)
        except EngineRefusedError as error:
            if not error.is_unknown_script:
                raise
        left = ends_at - asyncio.get_running_loop().time()
        return await self.call("EVAL", script.text, *words, timeout=max(left, 0.0))

    async def call(self, *words: Word, timeout: float) -> Answer:
        """Send a command, and return its answer. Raises EngineError, `timeout` seconds from now at the latest.

        The connection stays: the engine may be slow, and others wait for its answers.
        """
        link = self._link
        try:
            async with asyncio.timeout(timeout):
                if link is None or not link.is_open:
                    link = await self._connect()
                return await link.send(words)
        except TimeoutError:
            raise EngineUnavailableError(f"no answer within {timeout:g} s") from None

    async def close(self) -> None:
        """Close the connection. Calls fail from now on."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        if self._link is not None:
            await self._link.close()

    async def _connect(self) -> Link:
        """Connect, or wait for the attempt that is being made."""
        loop = asyncio.get_running_loop()
        if self._is_closed:
            raise EngineUnavailableError("the connection to the engine was closed")
        if self._connecting is None:
            if loop.time() < self._refused_until:
                raise EngineUnavailableError(self._fault)
            self._connecting = loop.create_task(self._open(), name="connect to the engine")
            self._connecting.add_done_callback(retrieve)
        attempt = self._connecting
        await asyncio.wait({attempt})  # which a caller that is cancelled leaves to the others
        if attempt.cancelled():
            raise EngineUnavailableError("the connection to the engine was closed")
        return attempt.result()

    async def _open(self) -> Link:
        old = self._link
        try:
            if old is not None:
                await old.close()
            self.address = await find_primary(self._url)
            self._link = await open_link(self.address, name=self._name, timeout=CONNECT_TIMEOUT, patience=self._patience)
            return self._link
        except EngineUnavailableError as error:
            self._fault = str(error)
            self._refused_until = asyncio.get_running_loop().time() + PAUSE
            raise
        finally:
            self._connecting = None


def retrieve(attempt: "asyncio.Task[Link]") -> None:
    """Note the outcome of an attempt, even if all callers were cancelled."""
    if not attempt.cancelled():
        attempt.exception()
