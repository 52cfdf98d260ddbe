"""The keys of `jwt.keys_url`: fetched by one task, and kept while their source is down.

`run` is that task; `Resources` starts it.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import structlog

from scalesocket.auth.http_client import FetchError, HttpClient, Response
from scalesocket.auth.keys import HMAC, KeyFileError, KeySet, parse_keys

log = structlog.get_logger("auth")

FETCH_TIMEOUT: Final = 5.0
"""Seconds for a complete response."""
MAX_BODY: Final = 256 * 1024
"""Bytes of a key set."""
MIN_INTERVAL: Final = 30.0
"""Seconds between two fetches, if tokens with unknown keys cause them."""
MAX_AGE: Final = 300.0
"""Seconds until a key set is fetched again, if the response does not say."""
SHORTEST_AGE: Final = 60.0
LONGEST_AGE: Final = 24 * 3600.0
"""Bounds of the `max-age` of a response."""
RETRY: Final = 10.0
"""Seconds until the next fetch after a failed one."""
MAX_WAITING: Final = 256
"""Clients that wait for a fetch at the same time; more are turned away as unavailable."""
MAX_MISSING: Final = 1024
"""Names of keys that are remembered as not published, some 100 bytes each; the oldest goes first."""

_MAX_AGE_DIRECTIVE: Final = re.compile(r"(?:^|[,\s])max-age=\"?(\d{1,9})\"?(?:$|[,\s])", re.IGNORECASE)

Wait = Callable[[], Coroutine[None, None, None]]
"""Waits for the end of a fetch."""


class KeySource:
    """The newest valid key set of one URL."""

    def __init__(self, url: str, algorithms: tuple[str, ...] | None, http: HttpClient) -> None:
        """Fetch from `url`. `algorithms`: the only ones that are allowed, if given."""
        self.url = url
        self.algorithms = algorithms
        self.keys: KeySet | None = None
        """None until the first successful fetch."""
        self.version = 0
        """The number of successful fetches."""
        self._missing: dict[int, None] = {}
        """Hashes of names that were asked for before a fetch which did not bring them, oldest first."""
        self._http = http
        self._wake = asyncio.Event()
        self._fetched = asyncio.Event()
        """Set at the end of the fetch in progress, or of the one that `_wake` causes."""
        self._is_fetching = True
        self._started_at = 0.0
        self._is_down = False
        self._waiting = 0

    async def run(self) -> None:
        """Fetch at once, and again when the set is too old, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            self._is_fetching = True
            self._wake.clear()
            self._started_at = clock()
            try:
                pause = await self._fetch()
            finally:
                self._is_fetching = False
                self._fetched.set()
                self._fetched = asyncio.Event()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    @property
    def is_full(self) -> bool:
        """Whether so many clients wait for a fetch that no further one may."""
        return self._waiting >= MAX_WAITING

    def note_missing(self, kid: str) -> None:
        """Remember that a fetch did not bring a key that was asked for."""
        self._missing[hash(kid)] = None
        if len(self._missing) > MAX_MISSING:
            del self._missing[next(iter(self._missing))]

    def is_missing(self, kid: str) -> bool:
        """Whether a fetch did not bring a key of this name, so that it is not one that was published since."""
        return hash(kid) in self._missing

    @property
    def seconds_until_next(self) -> float:
        """The seconds until an unknown key may cause a fetch."""
        return max(0.0, self._started_at + MIN_INTERVAL - asyncio.get_running_loop().time())

    def wait_first(self) -> Wait | None:
        """Return a wait before the next look at `keys`, if there is none yet; None if no fetch is in progress."""
        return self._join() if self._is_fetching else None

    def wait_newer(self) -> Wait | None:
        """Return a wait before the next look for an unknown key; None if the last fetch began less than 30 s ago."""
        if not self._is_fetching:
            if self.seconds_until_next:
                return None
            self._is_fetching = True  # further callers wait for the same fetch
            self._wake.set()
        return self._join()

    def _join(self) -> Wait | None:
        return None if self.is_full else partial(self._wait, self._fetched)

    async def _wait(self, fetched: asyncio.Event) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                await fetched.wait()
        except TimeoutError:
            return
        finally:
            self._waiting -= 1

    async def _fetch(self) -> float:
        """Fetch once, and return the seconds until the next fetch."""
        try:
            response = await self._http.get(self.url, timeout=FETCH_TIMEOUT, max_body=MAX_BODY)
            if response.status != 200:
                raise FetchError(f"the response has the status {response.status}")
            self.keys = parse_public_keys(response.body, self.algorithms)
            self.version += 1
        except (FetchError, KeyFileError) as error:
            self._note_failure(str(error))
            return RETRY
        if self._is_down:
            self._is_down = False
            log.info("keys_url answers again", host=urlsplit(self.url).hostname)
        return max_age(response)

    def _note_failure(self, problem: str) -> None:
        """Log the first failure after a success."""
        if not self._is_down:
            self._is_down = True
            effect = "no token is accepted" if self.keys is None else "the last keys stay in use"
            log.warning(f"keys_url unavailable: {effect}", host=urlsplit(self.url).hostname, problem=problem)


def parse_public_keys(body: bytes, algorithms: tuple[str, ...] | None) -> KeySet:
    """Parse a fetched key set. Raises KeyFileError."""
    try:
        keys = parse_keys(body.decode(), algorithms)
    except UnicodeDecodeError:
        raise KeyFileError("is not UTF-8") from None
    if any(one.algorithms & HMAC for one in keys):
        raise KeyFileError("has a shared secret, which whoever fetches it could use (publish public keys alone)")
    return keys


def max_age(response: Response) -> float:
    """Return the seconds for which a response may be kept (RFC 9111 5.2.2.1), within limits."""
    found = _MAX_AGE_DIRECTIVE.search(response.headers.get("cache-control", ""))
    return min(max(float(found[1]), SHORTEST_AGE), LONGEST_AGE) if found else MAX_AGE
