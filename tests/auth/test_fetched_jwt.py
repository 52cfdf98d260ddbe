"""Tokens that are verified with fetched keys."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from scalesocket.auth.attempt import Attempt, Verdict
from scalesocket.auth.credentials import Credentials
from scalesocket.auth.denial import BAD_CREDENTIAL, EXPIRED, NOT_AVAILABLE, Denial
from scalesocket.auth.fetched_jwt import FetchedJwtVerifier
from scalesocket.auth.http_client import FetchError, HttpClient, Response
from scalesocket.auth.identity import Identity
from scalesocket.auth.key_source import MAX_MISSING, MAX_WAITING, KeySource
from scalesocket.config.model import Jwt
from tests.rooms.memory import request, run_virtual

URL: Final = "https://id.example/keys"
OLD: Final = ec.generate_private_key(ec.SECP256R1())
NEW: Final = ec.generate_private_key(ec.SECP256R1())
EDWARDS: Final = ed25519.Ed25519PrivateKey.generate()
RSA: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwks(**keys: Any) -> bytes:
    """Make a key set of private keys, by their `kid`."""
    members = []
    for kid, key in keys.items():
        is_edwards = isinstance(key, ed25519.Ed25519PrivateKey)
        kind: Any = OKPAlgorithm if is_edwards else RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
        members.append({**json.loads(kind.to_jwk(key.public_key())), "kid": kid, "use": "sig"})
    return json.dumps({"keys": members}).encode()


def token(key: Any = OLD, *, kid: str | None = "old", algorithm: str = "ES256", **claims: Any) -> str:
    header = {} if kid is None else {"kid": kid}
    return jwt.encode({"sub": "ann", "exp": time.time() + 60, **claims}, key, algorithm, headers=header)


class Keys(HttpClient):
    """A source of keys in memory."""

    def __init__(self, body: bytes | None) -> None:
        super().__init__()
        self.body = body
        self.fetches = 0

    async def get(self, url: str, *, timeout: float, max_body: int) -> Response:
        assert url == URL
        self.fetches += 1
        await asyncio.sleep(0.1)
        if self.body is None:
            raise FetchError("connection refused")
        return Response(status=200, headers={}, body=self.body)


@asynccontextmanager
async def open_verifier(http: Keys, **settings: Any) -> AsyncIterator[FetchedJwtVerifier]:
    jwt_settings = Jwt(keys_url=URL, **settings)
    source = KeySource(URL, jwt_settings.algorithms, http)
    task = asyncio.create_task(source.run())
    try:
        yield FetchedJwtVerifier(jwt_settings, "chat", source)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def verify(verifier: FetchedJwtVerifier, *tokens: str) -> Verdict | None:
    verdict = verifier.verify(Attempt(Credentials(tokens=tokens), "lobby", request()))
    return await verdict if isinstance(verdict, Awaitable) else verdict


def is_unavailable(verdict: Verdict | None, *, retry_after: int | None = None) -> bool:
    """Whether a client is told to come back, and that is no failed attempt."""
    assert isinstance(verdict, Denial)
    assert retry_after is None or verdict.retry_after == retry_after
    return (verdict.reason, verdict.status, verdict.close.code, verdict.is_failure) == ("unavailable", 503, 1013, False)


def test_a_token_waits_for_the_first_keys_and_later_ones_do_not_wait() -> None:
    async def body() -> None:
        async with open_verifier(Keys(jwks(old=OLD))) as verifier:
            assert isinstance(await verify(verifier, token()), Identity)

            verdict = verifier.verify(Attempt(Credentials(tokens=(token(),)), "lobby", request()))
            assert isinstance(verdict, Identity)
            assert (verdict.user, verdict.method) == ("ann", "jwt")

    run_virtual(body)


@pytest.mark.parametrize(("key", "algorithm"), [(OLD, "ES256"), (EDWARDS, "EdDSA"), (RSA, "RS256"), (RSA, "PS512")])
def test_a_key_verifies_the_algorithms_of_its_type(key: Any, algorithm: str) -> None:
    async def body() -> None:
        async with open_verifier(Keys(jwks(old=OLD, edwards=EDWARDS, rsa=RSA))) as verifier:
            kid = {OLD: "old", EDWARDS: "edwards", RSA: "rsa"}[key]

            assert isinstance(await verify(verifier, token(key, kid=kid, algorithm=algorithm)), Identity)
            assert isinstance(await verify(verifier, token(key, kid=None, algorithm=algorithm)), Identity)
            assert await verify(verifier, token(key, kid="old" if kid != "old" else "rsa", algorithm=algorithm)) is BAD_CREDENTIAL

    run_virtual(body)


def test_a_rotated_key_is_fetched_when_the_first_token_names_it() -> None:
    async def body() -> None:
        http = Keys(jwks(old=OLD))
        async with open_verifier(http) as verifier:
            await verify(verifier, token())
            await asyncio.sleep(31)
            http.body = jwks(new=NEW)

            assert isinstance(await verify(verifier, token(NEW, kid="new")), Identity)
            verdict = await verify(verifier, token())  # the old key is no longer in the set, but may have come since
            assert is_unavailable(verdict, retry_after=30)
            assert http.fetches == 2

            await asyncio.sleep(30)
            assert await verify(verifier, token()) is BAD_CREDENTIAL
            assert await verify(verifier, token()) is BAD_CREDENTIAL  # without a fetch: the last one did not bring it
            assert http.fetches == 3

    run_virtual(body)


def test_a_flood_of_unknown_keys_fetches_once_and_known_ones_do_not_wait() -> None:
    async def body() -> None:
        http = Keys(jwks(old=OLD))
        async with open_verifier(http) as verifier:
            await verify(verifier, token())
            await asyncio.sleep(31)

            flood = [asyncio.create_task(verify(verifier, token(NEW, kid=f"guess-{number}"))) for number in range(500)]
            await asyncio.sleep(0)
            assert isinstance(verifier.verify(Attempt(Credentials(tokens=(token(),)), "lobby", request())), Identity)
            reasons = Counter(verdict.reason for verdict in await asyncio.gather(*flood) if isinstance(verdict, Denial))
            assert reasons == {"bad_credential": MAX_WAITING, "unavailable": 500 - MAX_WAITING}
            assert http.fetches == 2

            http.body = jwks(old=OLD, new=NEW)  # published right after the fetch that the flood has caused
            verdict = await verify(verifier, token(NEW, kid="new"))
            assert is_unavailable(verdict, retry_after=30)
            await asyncio.sleep(30)
            assert isinstance(await verify(verifier, token(NEW, kid="new")), Identity)
            assert http.fetches == 3

    run_virtual(body)


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
def test_a_token_without_a_public_key_causes_no_fetch(algorithm: str) -> None:
    async def body() -> None:
        http = Keys(jwks(old=OLD))
        async with open_verifier(http) as verifier:
            await verify(verifier, token())
            await asyncio.sleep(31)
            secret = None if algorithm == "none" else "s" * 32

            assert await verify(verifier, token(secret, kid="guess", algorithm=algorithm)) is BAD_CREDENTIAL
            assert await verify(verifier, token(secret, kid="old", algorithm=algorithm)) is BAD_CREDENTIAL
            assert http.fetches == 1

    run_virtual(body)


def test_a_token_cannot_say_where_its_key_is() -> None:
    async def body() -> None:
        http = Keys(jwks(old=OLD))
        async with open_verifier(http) as verifier:
            headers = {"kid": "evil", "jku": "https://evil.example/keys", "x5u": "https://evil.example/x", "jwk": {"kty": "EC"}}
            evil = jwt.encode({"sub": "ann", "exp": time.time() + 60}, NEW, "ES256", headers=headers)

            assert await verify(verifier, evil) is BAD_CREDENTIAL  # Keys would fail on another URL

    run_virtual(body)


def test_while_the_source_has_never_answered_nothing_can_be_verified() -> None:
    async def body() -> None:
        http = Keys(None)
        async with open_verifier(http) as verifier:
            assert await verify(verifier, token()) is NOT_AVAILABLE
            assert verifier.verify(Attempt(Credentials(tokens=(token(),)), "lobby", request())) is NOT_AVAILABLE
            assert verifier.verify(Attempt(Credentials(tokens=("opaque",)), "lobby", request())) is None

    run_virtual(body)


def test_the_last_keys_serve_while_the_source_is_down() -> None:
    async def body() -> None:
        http = Keys(jwks(old=OLD))
        async with open_verifier(http) as verifier:
            await verify(verifier, token())
            http.body = None
            await asyncio.sleep(1000)

            assert isinstance(await verify(verifier, token()), Identity)
            assert await verify(verifier, token(exp=1)) is EXPIRED
            assert is_unavailable(await verify(verifier, token(NEW, kid="new")))
            await asyncio.sleep(31)
            assert is_unavailable(await verify(verifier, token(NEW, kid="new")))

    run_virtual(body)


def test_a_key_is_not_refused_when_the_fetch_for_it_fails() -> None:
    async def body() -> None:
        http = Keys(jwks(old=OLD))
        async with open_verifier(http) as verifier:
            await verify(verifier, token())
            await asyncio.sleep(31)
            http.body = None

            assert is_unavailable(await verify(verifier, token(NEW, kid="new")))
            assert http.fetches == 2

            http.body = jwks(new=NEW)
            await asyncio.sleep(31)
            assert isinstance(await verify(verifier, token(NEW, kid="new")), Identity)

    run_virtual(body)


def test_the_names_of_missing_keys_are_bounded() -> None:
    async def body() -> None:
        source = KeySource(URL, None, Keys(None))
        for number in range(MAX_MISSING + 1):
            source.note_missing(f"guess-{number}")

        assert not source.is_missing("guess-0")
        assert source.is_missing("guess-1")
        assert source.is_missing(f"guess-{MAX_MISSING}")

    run_virtual(body)
