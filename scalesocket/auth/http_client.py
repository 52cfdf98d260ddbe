"""The HTTP client of the site, which asks hooks and fetches key sets. It does not trust the servers that it asks.

It follows no redirect, reads no proxy from the environment, keeps no cookie, and bounds the time and the size of each response.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import httpx

IDLE_CONNECTIONS: Final = 64
"""Connections that are kept open for further requests."""
IDLE_TIMEOUT: Final = 30.0
"""Seconds for which one is kept."""
OPEN_TIMEOUT: Final = 10.0
"""Seconds to make the client of httpx, before the first request. Its own timeout begins afterwards."""
CLOSE_TIMEOUT: Final = 1.0
"""Seconds to close all connections."""
HEADERS: Final = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "scalesocket"}


class FetchError(Exception):
    """There is no usable response. The text has neither the URL nor what was sent: both may hold secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = field(repr=False)


class HttpClient:
    """Makes requests, over connections that it keeps open. Nothing is imported or opened before the first request."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None
        self._making: asyncio.Task[None] | None = None
        self._is_closed = False

    async def get(self, url: str, *, timeout: float, max_body: int) -> Response:
        """Fetch `url` within `timeout` seconds, with at most `max_body` bytes of body. Raises FetchError."""
        return await self._request("GET", url, None, timeout=timeout, max_body=max_body)

    async def post_json(self, url: str, body: bytes, *, timeout: float, max_body: int) -> Response:
        """Post JSON to `url`, and read the response as `get` does. Raises FetchError."""
        return await self._request("POST", url, body, timeout=timeout, max_body=max_body)

    async def close(self) -> None:
        """Close all connections. Further requests fail."""
        self._is_closed = True
        if self._making is not None:
            await asyncio.wait({self._making}, timeout=CLOSE_TIMEOUT)
        client, self._client = self._client, None
        if client is not None:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await client.aclose()
            except TimeoutError:
                return

    async def _request(self, method: str, url: str, body: bytes | None, *, timeout: float, max_body: int) -> Response:
        client = await self._open()
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                return await self._exchange(client, method, url, body, max_body)
        except TimeoutError:
            raise FetchError(f"no complete response after {time.monotonic() - started:.1f} s") from None

    async def _exchange(self, client: "httpx.AsyncClient", method: str, url: str, body: bytes | None, max_body: int) -> Response:
        from httpx import HTTPError, InvalidURL

        headers = {} if body is None else {"content-type": "application/json"}
        received = bytearray()
        try:
            async with client.stream(method, url, content=body, headers=headers) as response:
                async for chunk in response.aiter_raw():  # not decompressed: a small body could become a very large one
                    received += chunk
                    if len(received) > max_body:
                        raise FetchError(f"the response is longer than {max_body} bytes")
                fields = {name.lower(): value for name, value in response.headers.items()}
                return Response(status=response.status_code, headers=fields, body=bytes(received))
        except (HTTPError, InvalidURL, OSError, ValueError) as error:
            raise FetchError(describe(error)) from None

    async def _open(self) -> "httpx.AsyncClient":
        """Return the client. It is made once, in a thread: import and certificates take 100 ms, and more on a busy machine.

        A request that is cancelled meanwhile leaves the client to the next one.
        """
        if self._client is None and not self._is_closed:
            if self._making is None or self._making.done():
                self._making = asyncio.create_task(self._make(), name="make the HTTP client")
            try:
                async with asyncio.timeout(OPEN_TIMEOUT):
                    await asyncio.shield(self._making)
            except TimeoutError:
                raise FetchError(f"no HTTP client after {OPEN_TIMEOUT:.0f} s") from None
        if self._client is None or self._is_closed:
            raise FetchError("the server is shutting down")
        return self._client

    async def _make(self) -> None:
        self._client = await asyncio.to_thread(make_client)


def make_client() -> "httpx.AsyncClient":
    """Make the client of httpx, with the certificates that the system trusts."""
    import httpx

    return httpx.AsyncClient(
        verify=ssl.create_default_context(),
        trust_env=False,
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # one user's cookie would be sent for the next one
        headers=HEADERS,
        timeout=None,  # `HttpClient` bounds the whole exchange
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=IDLE_CONNECTIONS, keepalive_expiry=IDLE_TIMEOUT),
    )


def describe(error: Exception) -> str:
    """Describe a failed exchange by the kind of its error. Texts of errors may quote the URL or the response."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
