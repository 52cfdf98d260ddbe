"""JSON Web Tokens (RFC 7519): a signature that one of the app's keys made, and claims that are for this app and this time."""

import hmac
import time
from binascii import a2b_base64
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeGuard

import jwt
import msgspec
from jwt.algorithms import get_default_algorithms
from msgspec import UNSET, UnsetType

from scalesocket.auth.attempt import Attempt, Verdict
from scalesocket.auth.denial import BAD_CREDENTIAL, EXPIRED, Denial
from scalesocket.auth.identity import NO_INFO, WRITER, Identity, roles_of
from scalesocket.auth.keys import KeySet, find_keys
from scalesocket.config.auth_settings import ALGORITHMS
from scalesocket.config.model import Jwt

MAX_USER: Final = 256
"""Characters in the name of a user."""
MAX_TIME: Final = 1e12
"""The latest time in a token, in Unix time."""
TIMES: Final = ("exp", "nbf", "iat")
"""Claims that are times."""
MAX_TRIES: Final = 8
"""The most keys that one token is verified with. Only in a set without `kid` more keys can fit."""


class _Header(msgspec.Struct):
    """The header of a token (RFC 7515 4.1)."""

    alg: str
    kid: str | None = None
    crit: msgspec.Raw | None = None


class Parts(NamedTuple):
    """A token whose header can be read."""

    algorithm: str
    kid: str | None


_ALGORITHMS: Final = {name: one for name, one in get_default_algorithms().items() if name in ALGORITHMS}
_HMAC_DIGESTS: Final = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
_ALPHABET: Final = bytes(
    {ord("-"): ord("+"), ord("_"): ord("/"), **dict.fromkeys(b"+/=", ord("!"))}.get(byte, byte) for byte in range(256)
)
"""From base64url without padding to base64; `!` is in neither."""
_NUMBERS: Final = (int, float)
"""A tuple: `isinstance` with a union takes three times as long."""
_decode_header: Final = msgspec.json.Decoder(_Header).decode
_decode_claims: Final = msgspec.json.Decoder(dict[str, Any]).decode


class JwtVerifier:
    """Verifies tokens of one app with keys that are at hand."""

    def __init__(self, settings: Jwt, app: str, keys: Callable[[], KeySet]) -> None:
        """Verify by `settings`. `app`: the audience of tokens, if the settings name none. `keys` returns the current ones."""
        self._settings = settings
        self._audience = frozenset((app,) if settings.audience is None else settings.audience)
        self._keys = keys

    def verify(self, attempt: Attempt) -> Verdict | None:
        """Decide by the first token that has the form of a JSON Web Token."""
        for token in attempt.credentials.tokens:
            parts = read_header(token)
            if parts is not None:
                return self.verify_token(token, parts, find_keys(self._keys(), parts.algorithm, parts.kid))
        return None

    def verify_token(self, token: str, parts: Parts, keys: KeySet) -> Verdict:
        """Decide on a token by its signature, with one of `keys`, and by its claims."""
        for one in keys[:MAX_TRIES]:
            payload = open_token(token, parts.algorithm, one.key)
            if payload is not None:
                break
        else:
            return BAD_CREDENTIAL
        try:
            claims = _decode_claims(payload)
        except (ValueError, RecursionError):
            return BAD_CREDENTIAL
        return self._check_claims(claims, time.time())

    def _check_claims(self, claims: dict[str, Any], now: float) -> Verdict:
        settings = self._settings
        for name in TIMES:
            if name in claims and not is_time(claims[name]):
                return BAD_CREDENTIAL
        expires_at, begins_at, issued_at = claims.get("exp"), claims.get("nbf"), claims.get("iat")
        if not self._is_for_us(claims):
            return BAD_CREDENTIAL
        latest = now + settings.leeway
        if (begins_at is not None and begins_at > latest) or (issued_at is not None and issued_at > latest):
            return BAD_CREDENTIAL
        if expires_at is None:
            if settings.require_exp:
                return BAD_CREDENTIAL
        elif now >= expires_at:
            if now >= expires_at + settings.leeway:
                return EXPIRED
            expires_at += settings.leeway  # else the client would be closed as soon as it has joined
        return make_identity(
            "jwt",
            user=claims.get(settings.user, UNSET),
            rooms=claims.get(settings.rooms, UNSET),
            roles=claims.get(settings.roles, UNSET),
            info=claims.get(settings.info),
            expires_at=expires_at,
        )

    def _is_for_us(self, claims: dict[str, Any]) -> bool:
        """Check `iss` and `aud` (RFC 7519 4.1.1 and 4.1.3)."""
        issuer, audience = self._settings.issuer, claims.get("aud", UNSET)
        if issuer is not None and claims.get("iss") != issuer:
            return False
        if audience is UNSET:
            return self._settings.audience is None
        if isinstance(audience, str):
            return audience in self._audience
        return isinstance(audience, list) and any(isinstance(name, str) and name in self._audience for name in audience)


def make_identity(
    method: str,
    *,
    user: object = UNSET,
    rooms: object = UNSET,
    roles: object = UNSET,
    info: object = None,
    expires_at: float | None = None,
) -> Identity | Denial:
    """Make an identity of decoded JSON values; BAD_CREDENTIAL if one has the wrong type.

    UNSET stands for a missing value. A `null` is a wrong type: a list that was lost must not open all rooms. `rooms` and `roles`
    may be a list of strings, or one string; `roles` in one string are separated by spaces (as in `scope`) or commas.
    """
    if isinstance(user, int) and not isinstance(user, bool):
        user = str(user)
    if user is not UNSET and not (isinstance(user, str) and 0 < len(user) <= MAX_USER and user.isprintable()):
        return BAD_CREDENTIAL
    patterns = [rooms] if isinstance(rooms, str) else rooms
    names = roles.replace(",", " ").split() if isinstance(roles, str) else roles
    if not _are_names(patterns) or not _are_names(names):
        return BAD_CREDENTIAL
    try:
        text = NO_INFO if info is None else msgspec.json.encode(info).decode()
    except (OverflowError, RecursionError):  # an integer of more than 64 bits
        return BAD_CREDENTIAL
    return Identity(
        user=None if user is UNSET else user,
        method=method,
        rooms=None if patterns is UNSET else tuple(patterns),
        roles=WRITER if names is UNSET else roles_of(names),
        info=text,
        expires_at=expires_at,
    )


def read_header(token: str) -> Parts | None:
    """Read the header of a token; None if it does not have the form of a JSON Web Token."""
    return _read_encoded_header(token.partition(".")[0]) if token.count(".") == 2 else None


@lru_cache(maxsize=64)  # the tokens of one issuer have the same header
def _read_encoded_header(encoded: str) -> Parts | None:
    try:
        header = _decode_header(decode_part(encoded))
    except (ValueError, RecursionError):
        return None
    return None if header.crit is not None else Parts(header.alg, header.kid)


def open_token(token: str, algorithm: str, key: object) -> bytes | None:
    """Return the payload of a token if this key, which is of the algorithm's type, has signed it (RFC 7515 5.2).

    PyJWT's `decode` parses the key and the header again at each call: three times the CPU of the rest of a handshake.
    """
    signed, _, signature = token.rpartition(".")
    try:
        if not _is_signed(signed.encode(), algorithm, key, decode_part(signature)):
            return None
        return decode_part(signed.partition(".")[2])
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None


def _is_signed(message: bytes, algorithm: str, key: Any, signature: bytes) -> bool:
    digest = _HMAC_DIGESTS.get(algorithm)
    if digest is None:
        return _ALGORITHMS[algorithm].verify(message, key, signature)
    return hmac.compare_digest(hmac.digest(key, message, digest), signature)  # as PyJWT does, in one call


def decode_part(part: str) -> bytes:
    """Decode one part of a token: base64url without padding (RFC 7515 2), and nothing else. Raises ValueError."""
    encoded = part.encode("ascii").translate(_ALPHABET)
    return a2b_base64(encoded + b"=" * (-len(encoded) % 4), strict_mode=True)


def _are_names(value: object) -> TypeGuard[list[str] | UnsetType]:
    return value is UNSET or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def is_time(value: object) -> TypeGuard[float]:
    """Whether a claim is a NumericDate (RFC 7519 2)."""
    return isinstance(value, _NUMBERS) and not isinstance(value, bool) and 0 <= value <= MAX_TIME
