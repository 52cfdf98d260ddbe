"""The keys of a URL: when they are fetched, and what happens while their source is down."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from scalesocket.auth import key_source
from scalesocket.auth.http_client import FetchError, HttpClient, Response
from scalesocket.auth.key_source import MAX_BODY, MAX_WAITING, KeySource, max_age
from tests.auth.web import open_web, respond
from tests.rooms.memory import run_virtual

URL = "https://id.example/keys"


SHARED = b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'
KEY = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key()))


class Source(HttpClient):
    """Answers in memory: with `body`, an error, or only after `gate` is set."""

    def __init__(self, *, cache_control: str = "") -> None:
        super().__init__()
        self.answer: bytes | FetchError | int = jwks("one")
        self.cache_control = cache_control
        self.times: list[float] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = self.most_at_once = 0

    async def get(self, url: str, *, timeout: float, max_body: int) -> Response:
        assert url == URL
        self.times.append(asyncio.get_running_loop().time())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            async with asyncio.timeout(timeout):
                await self.gate.wait()
        except TimeoutError:
            raise FetchError("no complete response") from None
        finally:
            self.at_once -= 1
        if isinstance(self.answer, FetchError):
            raise self.answer
        status, body = (self.answer, b"") if isinstance(self.answer, int) else (200, self.answer)
        return Response(status=status, headers={"cache-control": self.cache_control}, body=body)


def jwks(*kids: str) -> bytes:
    return json.dumps({"keys": [{**KEY, "kid": kid} for kid in kids]}).encode()


def kids(source: KeySource) -> list[str | None] | None:
    return None if source.keys is None else [one.kid for one in source.keys]


@asynccontextmanager
async def run_source(http: HttpClient, url: str = URL) -> AsyncIterator[KeySource]:
    source = KeySource(url, None, http)
    task = asyncio.create_task(source.run())
    try:
        yield source
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def wait_first(source: KeySource) -> None:
    waiting = source.wait_first()
    assert waiting is not None
    await waiting()


async def wait_newer(source: KeySource) -> bool:
    waiting = source.wait_newer()
    if waiting is not None:
        await waiting()
    return waiting is not None


def test_the_keys_are_fetched_at_start_and_the_first_clients_wait() -> None:
    async def body() -> None:
        http = Source()
        http.gate.clear()
        async with run_source(http) as source:
            waiting = [asyncio.create_task(wait_first(source)) for _ in range(20)]
            await asyncio.sleep(1)
            assert source.keys is None
            http.gate.set()
            await asyncio.gather(*waiting)

            assert kids(source) == ["one"]
            assert source.wait_first() is None
            assert len(http.times) == 1

    run_virtual(body)


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [
        *(("", 300), ("max-age=900", 900), ("public, MAX-AGE=900, x=1", 900), ('max-age="900"', 900), ("max-age=0", 60)),
        *(("no-store", 300), ("max-age=999999999", 86400), ("s-max-age=900", 300), ("max-age=-1", 300)),
    ],
)
def test_the_keys_are_fetched_again_after_their_age(cache_control: str, seconds: float) -> None:
    async def body() -> None:
        http = Source(cache_control=cache_control)
        async with run_source(http) as source:
            await wait_first(source)
            http.answer = jwks("two")
            await asyncio.sleep(seconds - 0.1)
            assert kids(source) == ["one"]
            await asyncio.sleep(0.2)
            assert kids(source) == ["two"]

    run_virtual(body)
    assert max_age(Response(status=200, headers={"cache-control": cache_control}, body=b"")) == seconds


def test_an_unknown_key_fetches_the_rotated_set_at_once() -> None:
    async def body() -> None:
        http = Source()
        async with run_source(http) as source:
            await wait_first(source)
            await asyncio.sleep(30)
            http.answer = jwks("two")

            assert await wait_newer(source)
            assert kids(source) == ["two"]
            assert http.times[1] - http.times[0] == pytest.approx(30, abs=0.1)

    run_virtual(body)


def test_a_flood_of_unknown_keys_fetches_once_in_30_seconds() -> None:
    async def body() -> None:
        http = Source()
        async with run_source(http) as source:
            await wait_first(source)
            for _ in range(600):  # for a minute, ten tokens at once
                await asyncio.gather(*(wait_newer(source) for _ in range(10)))
                await asyncio.sleep(0.1)

            assert len(http.times) in (2, 3)
            assert min(later - earlier for earlier, later in zip(http.times, http.times[1:], strict=False)) >= 30
            assert http.most_at_once == 1

    run_virtual(body)


def test_clients_that_wait_for_a_fetch_are_bounded() -> None:
    async def body() -> None:
        http = Source()
        async with run_source(http) as source:
            await wait_first(source)
            await asyncio.sleep(30)
            http.gate.clear()
            waiting = [asyncio.create_task(wait_newer(source)) for _ in range(MAX_WAITING + 10)]
            await asyncio.sleep(0.1)

            assert sum(task.done() for task in waiting) == 10
            http.gate.set()
            await asyncio.gather(*waiting)
            assert len(http.times) == 2

    run_virtual(body)


@pytest.mark.parametrize(
    "failure", [FetchError("connection refused"), 500, 304, b"wrong", b"\xff", b"{}", b'{"keys": []}', SHARED]
)
def test_the_last_keys_stay_while_the_source_is_down(failure: FetchError | int | bytes) -> None:
    async def body() -> None:
        http = Source()
        async with run_source(http) as source:
            await wait_first(source)
            http.answer = failure
            await asyncio.sleep(2000)
            assert kids(source) == ["one"]
            tries = len(http.times)
            assert tries > 100
            http.answer = jwks("two")
            await asyncio.sleep(10.1)
            assert kids(source) == ["two"]

    with structlog.testing.capture_logs() as events:
        run_virtual(body)
    assert [event["event"] for event in events] == ["keys_url unavailable: the last keys stay in use", "keys_url answers again"]


def test_a_source_that_is_down_at_start_is_tried_again() -> None:
    async def body() -> None:
        http = Source()
        http.answer = FetchError("connection refused")
        async with run_source(http) as source:
            await wait_first(source)
            assert source.keys is None
            assert source.wait_first() is None  # clients do not wait for the next try
            http.answer = jwks("one")
            await asyncio.sleep(10.1)
            assert kids(source) == ["one"]

    run_virtual(body)


def test_nobody_waits_longer_than_a_fetch_may_take() -> None:
    async def body() -> None:
        http = Source()
        http.gate.clear()
        async with run_source(http) as source:
            started = asyncio.get_running_loop().time()
            await wait_first(source)
            assert asyncio.get_running_loop().time() - started <= key_source.FETCH_TIMEOUT + 0.1
            assert source.keys is None

    run_virtual(body)


def test_an_oversized_set_and_a_redirect_are_refused() -> None:
    async def body() -> None:
        http = HttpClient()
        async with open_web(lambda _: respond(b"x" * (MAX_BODY + 1))) as web, run_source(http, web.url) as source:
            await wait_first(source)
            assert source.keys is None
        async with open_web(lambda _: respond(jwks("other"))) as other:
            redirect = respond(status=302, headers={"Location": other.url})
            async with open_web(lambda _: redirect) as web, run_source(http, web.url) as source:
                await wait_first(source)
                assert source.keys is None
            assert other.asked == []
        async with open_web(lambda _: respond(jwks("one"))) as web, run_source(http, web.url) as source:
            await wait_first(source)
            assert kids(source) == ["one"]
        await http.close()

    asyncio.run(body())
