"""One open connection to the engine: requests are sent in order, and many wait for their answers at the same time.

redis-py opens it and reads the answers; it retries nothing. `Link` starts two tasks and ends with either.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from scalesocket.cluster.replies import BoundedParser

MAX_WAITING: Final = 10_000
"""Requests that wait for their answers on one connection."""
Word = str | bytes | int
"""A word of a command."""
Answer = Any
"""What redis-py returns: bytes, an int, None, or a list of these."""


class EngineError(Exception):
    """The engine did not do what it was asked. The text holds no password."""


class EngineUnavailableError(EngineError):
    """There is no answer in time: it may have done what it was asked, or not."""


class EngineRefusedError(EngineError):
    """The engine answered with an error."""

    def __init__(self, message: str, *, is_unknown_script: bool = False) -> None:
        super().__init__(message)
        self.is_unknown_script = is_unknown_script


class Link:
    """A connection in use. It is never opened again: a caller that needs another makes a new one."""

    def __init__(self, connection: AbstractConnection, *, patience: float) -> None:
        """Use a connection that is open. It is given up when no answer comes for `patience` seconds, although one is due."""
        self._connection = connection
        self._patience = patience
        self._silent_since = 0.0
        """The loop's time of the last answer, or of the first request after a time without any."""
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[asyncio.Future[Answer]] = deque()
        """In the order of the requests."""
        self._outbox: list[bytes] = []
        self._has_output = asyncio.Event()
        self._fault: str | None = None
        self._tasks = [
            asyncio.create_task(self._guard(self._write()), name="write to the engine"),
            asyncio.create_task(self._guard(self._read()), name="read from the engine"),
        ]

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._fault is None

    def send(self, words: Sequence[Word]) -> asyncio.Future[Answer]:
        """Send a command, with others of this event-loop iteration. Returns the answer to come; it may be cancelled."""
        if self._fault is not None:
            raise EngineUnavailableError(self._fault)
        if len(self._waiting) >= MAX_WAITING:
            raise EngineUnavailableError(f"{MAX_WAITING} requests wait for the engine already")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            self._silent_since = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._patience, self._check_silence)
        self._waiting.append(answer)
        self._outbox += self._connection.pack_command(*words)
        self._has_output.set()
        return answer

    def abort(self, fault: str) -> None:
        """Give the connection up. All requests that wait fail."""
        if self._fault is None:
            self._fault = fault
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(EngineUnavailableError(self._fault))
                answer.exception()  # marks it as retrieved: the caller may have been cancelled
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        drop_output(self._connection)
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    async def close(self) -> None:
        """Give the connection up, and wait until its tasks have ended."""
        self.abort("the connection to the engine was closed")
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except (RedisError, OSError) as error:
            self.abort(describe(error))
        finally:
            self.abort("the connection to the engine was closed")
            await discard(self._connection)

    async def _write(self) -> None:
        while True:
            await self._has_output.wait()
            self._has_output.clear()
            output, self._outbox = self._outbox, []
            await self._connection.send_packed_command([b"".join(output)], check_health=False)

    async def _read(self) -> None:
        while True:
            try:
                found = await self._connection.read_response(disable_decoding=True, disconnect_on_error=False)
            except ReadOnlyError as error:  # a replica: the address may lead to the primary by now
                raise OSError(describe(error)) from None
            except ResponseError as error:
                self._settle(error=EngineRefusedError(str(error), is_unknown_script=isinstance(error, NoScriptError)))
            else:
                self._settle(found)

    def _check_silence(self) -> None:
        """Give the connection up if it is silent. A slow engine keeps it: its answers are as good as quick ones."""
        self._timer = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        left = self._silent_since + self._patience - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._check_silence)
        else:
            self.abort(f"no answer for {self._patience:g} s")

    def _settle(self, found: Answer = None, *, error: EngineRefusedError | None = None) -> None:
        if not self._waiting:
            raise OSError("the engine answered what it was not asked")
        answer = self._waiting.popleft()
        self._silent_since = asyncio.get_running_loop().time()
        if answer.done():  # the caller no longer waits
            return
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)


async def open_link(url: str, *, name: str, timeout: float, patience: float) -> Link:
    """Connect to the engine within `timeout` seconds. Raises EngineUnavailableError.

    `name` is shown in its list of clients. `patience`: of the link, in seconds.
    """
    connection = make_connection(url, name, timeout)
    try:
        async with asyncio.timeout(timeout):
            await connection.connect()  # type: ignore[no-untyped-call]
    except TimeoutError:
        raise EngineUnavailableError(f"no connection within {timeout:g} s") from None
    except (RedisError, OSError) as error:
        raise EngineUnavailableError(describe(error)) from None
    else:
        return Link(connection, patience=patience)
    finally:
        if sys.exception() is not None:
            await discard(connection)


def make_connection(url: str, name: str, timeout: float) -> AbstractConnection:
    """Make a connection of redis-py, not open yet, that retries nothing and never waits longer than its caller."""
    settings: dict[str, Any] = dict(parse_url(url))
    kind: type[AbstractConnection] = settings.pop("connection_class", Connection)
    if kind is SSLConnection:
        settings = {"ssl_check_hostname": True} | settings  # False by default before redis-py 6
    return kind(
        **settings,
        client_name=name,
        parser_class=BoundedParser,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=timeout,
        socket_timeout=None,
        health_check_interval=0,
    )


def drop_output(connection: AbstractConnection) -> None:
    """Drop unsent commands: no caller waits for the answers. redis-py would send them before it closes."""
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        writer.transport.abort()


async def discard(connection: AbstractConnection) -> None:
    """Close a connection at once."""
    drop_output(connection)
    with suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)


def describe(error: Exception) -> str:
    """Describe a fault in lower case, except for words in capitals. The errors of redis-py name hosts, and no passwords."""
    text = str(error).rstrip(".") or type(error).__name__
    return text if text[:2].isupper() else text[:1].lower() + text[1:]
