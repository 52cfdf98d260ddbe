"""JSON Web Tokens (RFC 7519): a signature that one of the app's keys made, and claims that are for this app and this time."""

import time
from binascii import a2b_base64
from collections.abc import Callable
from functools import lru_cache
from hmac import compare_digest
from operator import attrgetter
from typing import Annotated, Any, Final, NamedTuple, TypeGuard

import jwt
from jwt.algorithms import get_default_algorithms
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, defstruct
from msgspec.json import Decoder, encode

from scalesocket.auth.attempt import Attempt, Verdict
from scalesocket.auth.denial import BAD_CREDENTIAL, EXPIRED, Denial
from scalesocket.auth.identity import NO_INFO, WRITER, Identity, roles_of
from scalesocket.auth.keys import KeySet, VerifyingKey, find_keys
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


class _Header(Struct):
    """The header of a token (RFC 7515 4.1)."""

    alg: str
    kid: str | None = None
    crit: Raw | None = None


class Parts(NamedTuple):
    """A token whose header can be read."""

    algorithm: str
    kid: str | None


_ALGORITHMS: Final = {name: one for name, one in get_default_algorithms().items() if name in ALGORITHMS}
_ALPHABET: Final = bytes(
    {ord("-"): ord("+"), ord("_"): ord("/"), **dict.fromkeys(b"+/=", ord("!"))}.get(byte, byte) for byte in range(256)
)
"""From base64url without padding to base64; `!` is in neither."""
_PADDING: Final = (b"", b"===", b"==", b"=")
"""By the length of the rest that does not fill a group of four."""
_NUMBERS: Final = (int, float)
"""A tuple: `isinstance` with a union takes three times as long."""
_decode_header: Final = Decoder(_Header).decode
_TIME: Final[Any] = Annotated[int, Meta(ge=0, le=int(MAX_TIME))] | Annotated[float, Meta(ge=0, le=MAX_TIME)]
_NAMES: Final[Any] = str | list[str]

Claims = tuple[Any, ...]
"""Values of `exp`, `nbf`, `iat`, `aud` and `iss`, and of the claims for user, rooms, roles and info; UNSET for a missing one."""


class JwtVerifier:
    """Verifies tokens of one app with keys that are at hand."""

    def __init__(self, settings: Jwt, app: str, keys: Callable[[], KeySet]) -> None:
        """Verify by `settings`. `app`: the audience of tokens, if the settings name none. `keys` returns the current ones."""
        self._settings = settings
        self._audience = frozenset((app,) if settings.audience is None else settings.audience)
        self._keys = keys
        self._read_claims = _claims_reader(settings.user, settings.rooms, settings.roles, settings.info)

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
            payload = open_token(token, parts.algorithm, one)
            if payload is not None:
                break
        else:
            return BAD_CREDENTIAL
        try:
            claims = self._read_claims(payload)
        except (ValueError, RecursionError):
            return BAD_CREDENTIAL
        return self._check_claims(claims, time.time())

    def _check_claims(self, claims: Claims, now: float) -> Verdict:
        settings = self._settings
        expires_at, begins_at, issued_at, audience, issuer, user, rooms, roles, info = claims
        if settings.issuer is not None and issuer != settings.issuer:
            return BAD_CREDENTIAL
        if not self._is_for_us(audience):
            return BAD_CREDENTIAL
        latest = now + settings.leeway
        if (begins_at is not UNSET and begins_at > latest) or (issued_at is not UNSET and issued_at > latest):
            return BAD_CREDENTIAL
        if expires_at is UNSET:
            expires_at = None
            if settings.require_exp:
                return BAD_CREDENTIAL
        elif now >= expires_at:
            if now >= expires_at + settings.leeway:
                return EXPIRED
            expires_at += settings.leeway  # else the client would be closed as soon as it has joined
        info = None if info is UNSET else info
        return make_identity("jwt", user=user, rooms=rooms, roles=roles, info=info, expires_at=expires_at)

    def _is_for_us(self, audience: str | list[object] | UnsetType) -> bool:
        """Check `aud` (RFC 7519 4.1.3)."""
        if audience is UNSET:
            return self._settings.audience is None
        if isinstance(audience, str):
            return audience in self._audience
        return any(isinstance(name, str) and name in self._audience for name in audience)


@lru_cache(maxsize=64)  # each call makes a class
def _claims_reader(user: str, rooms: str, roles: str, info: str) -> Callable[[bytes], Claims]:
    """Return a function that decodes a payload to claims with these names. It raises ValueError if one has a wrong type.

    msgspec checks types in the time in which it fills a dictionary. Where two of the claims have the same name, the type of
    the first holds: `make_identity` checks the others.
    """
    types: dict[str, Any] = {**dict.fromkeys(TIMES, _TIME), "aud": str | list}
    for claim, kind in ((user, str | int), (rooms, _NAMES), (roles, _NAMES)):
        types.setdefault(claim, kind)
    for claim in ("iss", info):
        types.setdefault(claim, Any)
    fields = {claim: f"claim_{number}" for number, claim in enumerate(types)}
    made = defstruct(
        "Claims",
        [(fields[claim], kind | UnsetType, UNSET) for claim, kind in types.items()],
        rename={field: claim for claim, field in fields.items()},
        gc=False,
    )
    decode = Decoder(made).decode
    select = attrgetter(*(fields[claim] for claim in (*TIMES, "aud", "iss", user, rooms, roles, info)))
    return lambda payload: select(decode(payload))


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
    if (patterns is not UNSET and not _are_names(patterns)) or (names is not UNSET and not _are_names(names)):
        return BAD_CREDENTIAL
    try:
        text = NO_INFO if info is None else encode(info).decode()
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
        header = _decode_header(decode_part(encoded.encode("ascii")))
    except (ValueError, RecursionError):
        return None
    return None if header.crit is not None else Parts(header.alg, header.kid)


def open_token(token: str, algorithm: str, key: VerifyingKey) -> bytes | None:
    """Return the payload of a token if this key, which is of the algorithm's type, has signed it (RFC 7515 5.2).

    PyJWT's `decode` parses the key and the header again at each call: three times the CPU of the rest of a handshake.
    """
    try:
        signed, _, signature = token.encode("ascii").rpartition(b".")
        if not _is_signed(signed, algorithm, key, decode_part(signature)):
            return None
        return decode_part(signed.partition(b".")[2])
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None


def _is_signed(message: bytes, algorithm: str, key: VerifyingKey, signature: bytes) -> bool:
    prepared = key.macs.get(algorithm)
    if prepared is None:
        return _ALGORITHMS[algorithm].verify(message, key.key, signature)
    mac = prepared.copy()
    mac.update(message)
    return compare_digest(mac.digest(), signature)


def decode_part(part: bytes) -> bytes:
    """Decode one part of a token: base64url without padding (RFC 7515 2), and nothing else. Raises ValueError."""
    return a2b_base64(part.translate(_ALPHABET) + _PADDING[len(part) % 4], strict_mode=True)


def _are_names(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def is_time(value: object) -> TypeGuard[float]:
    """Whether a claim is a NumericDate (RFC 7519 2)."""
    return isinstance(value, _NUMBERS) and not isinstance(value, bool) and 0 <= value <= MAX_TIME
