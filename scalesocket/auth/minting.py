"""Making JSON Web Tokens (RFC 7519) for an app, with the claims that its `auth.jwt` reads."""

import json
import math
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import get_default_algorithms

from scalesocket.auth.identity import Role
from scalesocket.auth.keys import KeyFileError, KeySet, algorithms_of
from scalesocket.config.auth_settings import ALGORITHMS
from scalesocket.config.model import Jwt

MAKE_NEW: Final = "openssl genpkey -algorithm ed25519 makes one"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key that signs tokens, and the algorithm that it signs them with."""

    key: Any = field(repr=False)
    """Bytes of a shared secret, or a private key of `cryptography`."""
    algorithm: str
    kid: str | None = None


def choose_secret(keys: KeySet) -> SigningKey | None:
    """Return the first shared secret of a key set; None if it has public keys alone, which sign nothing."""
    secrets = (one for one in keys if isinstance(one.key, bytes))
    return next((SigningKey(key=one.key, algorithm=_first(one.algorithms), kid=one.kid) for one in secrets), None)


def parse_signing_key(text: str, algorithms: Sequence[str] | None = None) -> SigningKey:
    """Parse a private key in PEM, or a JSON Web Key (RFC 7517) that is private or a shared secret. Raises KeyFileError.

    `algorithms`: the only ones that are allowed, if given.
    """
    key, kid = _parse_pem(text) if "-----BEGIN" in text else _parse_jwk(text)
    fitting = algorithms_of(key if isinstance(key, bytes) else key.public_key())
    allowed = fitting if algorithms is None else fitting.intersection(algorithms)
    if not allowed:
        raise KeyFileError(f"does not fit the algorithms of the app ({', '.join(algorithms or ())})")
    return SigningKey(key=key, algorithm=_first(allowed), kid=kid)


def make_claims(
    settings: Jwt, app: str, *, user: str | None, rooms: Sequence[str], roles: Sequence[Role], now: float, ttl: float
) -> dict[str, Any]:
    """Make the claims of a token that `settings` of this app accept. Without `rooms`, it is for all rooms of the app.

    Times are in Unix seconds, `ttl` in seconds.
    """
    claims: dict[str, Any] = {"iat": math.floor(now), "exp": math.ceil(now + ttl), "aud": (settings.audience or (app,))[0]}
    if settings.issuer is not None:
        claims["iss"] = settings.issuer
    if user is not None:
        claims[settings.user] = user
    if rooms:
        claims[settings.rooms] = list(rooms)
    if roles:
        claims[settings.roles] = [role.value for role in roles]
    return claims


def sign(claims: dict[str, Any], signer: SigningKey) -> str:
    """Return a token with these claims, in the compact serialization (RFC 7515 3.1)."""
    header = {"alg": signer.algorithm, "typ": "JWT", **({} if signer.kid is None else {"kid": signer.kid})}
    signed = ".".join(_encode_part(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    signature = get_default_algorithms()[signer.algorithm].sign(signed.encode(), signer.key)
    return f"{signed}.{_encode_part(signature)}"


def _encode_part(part: bytes) -> str:
    return urlsafe_b64encode(part).rstrip(b"=").decode()


def _first(algorithms: Iterable[str]) -> str:
    """Choose an algorithm: the first in the order of ALGORITHMS, which every library knows."""
    return min(algorithms, key=ALGORITHMS.index)


def _parse_pem(text: str) -> tuple[Any, None]:
    if "PRIVATE KEY-----" not in text:
        raise KeyFileError(f"has no private key ({MAKE_NEW})")
    try:
        return load_pem_private_key(text.encode(), password=None), None
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise KeyFileError("has a damaged or encrypted private key (openssl pkey -in OLD -out NEW decrypts it)") from None


def _parse_jwk(text: str) -> tuple[Any, str | None]:
    try:
        member = json.loads(text)
        members = member.get("keys", [member])
        (chosen,) = (one for one in members if one["kty"] == "oct" or "d" in one)
        key = jwt.PyJWK({name: value for name, value in chosen.items() if name != "alg"}).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise KeyFileError(f"is not one private key, in PEM or as a JSON Web Key ({MAKE_NEW})") from None
    kid = chosen.get("kid")
    return key, kid if isinstance(kid, str) else None
