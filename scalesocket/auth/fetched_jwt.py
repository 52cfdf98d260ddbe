"""JSON Web Tokens that are verified with the keys of `keys_url`."""

import math
from collections.abc import Coroutine
from dataclasses import replace

from scalesocket.auth.attempt import Attempt, Verdict
from scalesocket.auth.denial import BAD_CREDENTIAL, NOT_AVAILABLE, Denial
from scalesocket.auth.jwt import JwtVerifier, Parts, read_header
from scalesocket.auth.key_source import KeySource, Wait
from scalesocket.auth.keys import HMAC, KeySet, find_keys
from scalesocket.config.auth_settings import ALGORITHMS
from scalesocket.config.model import Jwt


class FetchedJwtVerifier:
    """Verifies tokens at once if their key is at hand; else after a fetch, if one is due."""

    def __init__(self, settings: Jwt, app: str, source: KeySource) -> None:
        self._verifier = JwtVerifier(settings, app, lambda: source.keys or ())
        self._source = source

    def verify(self, attempt: Attempt) -> Verdict | Coroutine[None, None, Verdict] | None:
        """Decide by the first token that has the form of a JSON Web Token."""
        for token in attempt.credentials.tokens:
            parts = read_header(token)
            if parts is not None:
                return self._verify(token, parts)
        return None

    def _verify(self, token: str, parts: Parts) -> Verdict | Coroutine[None, None, Verdict]:
        keys = self._source.keys
        if keys is None:
            waiting = self._source.wait_first()
            return NOT_AVAILABLE if waiting is None else self._verify_after(waiting, self._source.version, token, parts)
        verdict = self._verify_with(keys, token, parts)
        kid = parts.kid
        if verdict is not BAD_CREDENTIAL or kid is None or not is_unknown(keys, parts):
            return verdict
        waiting = self._source.wait_newer()
        if waiting is not None:
            return self._verify_after(waiting, self._source.version, token, parts)
        return verdict if self._source.is_missing(kid) else self._unavailable()

    async def _verify_after(self, waiting: Wait, version: int, token: str, parts: Parts) -> Verdict:
        """Wait for the keys that follow `version`, and verify with them."""
        await waiting()
        keys = self._source.keys
        if keys is None:
            return NOT_AVAILABLE
        verdict = self._verify_with(keys, token, parts)
        if verdict is BAD_CREDENTIAL and parts.kid is not None and is_unknown(keys, parts):
            if self._source.version == version:  # the fetch has failed
                return self._unavailable()
            self._source.note_missing(parts.kid)
        return verdict

    def _unavailable(self) -> Denial:
        """Neither accept nor refuse a key that the next fetch may bring. Nothing was verified, so it is no failed attempt."""
        return replace(NOT_AVAILABLE, retry_after=max(1, math.ceil(self._source.seconds_until_next)))

    def _verify_with(self, keys: KeySet, token: str, parts: Parts) -> Verdict:
        return self._verifier.verify_token(token, parts, find_keys(keys, parts.algorithm, parts.kid))


def is_unknown(keys: KeySet, parts: Parts) -> bool:
    """Whether a token names a key that a newer set may have: not with an algorithm that no public key has."""
    possible = parts.algorithm in ALGORITHMS and parts.algorithm not in HMAC
    return possible and parts.kid is not None and all(one.kid != parts.kid for one in keys)
