"""Keys that verify tokens, each with the signature algorithms of its own type. Pure."""

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from scalesocket.errors import ScalesocketError

_DIGESTS: Final = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
HMAC: Final = frozenset(_DIGESTS)
RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
CURVES: Final[Mapping[str, frozenset[str]]] = {
    "secp256r1": frozenset({"ES256"}),
    "secp384r1": frozenset({"ES384"}),
    "secp521r1": frozenset({"ES512"}),
}
EDWARDS: Final = frozenset({"EdDSA"})
MAX_KEYS: Final = 64
"""Keys of one set."""
MIN_RSA: Final = 2048
"""Bits (RFC 7518 3.3)."""

_PEM: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


class KeyFileError(ScalesocketError):
    """Keys that cannot be used, and why. The text contains nothing of a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyingKey:
    """One key, and the algorithms that it may verify."""

    key: Any = field(repr=False)
    """Bytes of a shared secret, or a public key of `cryptography`."""
    algorithms: frozenset[str]
    kid: str | None = None
    macs: Mapping[str, hmac.HMAC] = field(init=False, repr=False, compare=False)
    """For a shared secret, an HMAC without a message by algorithm. A copy takes half the time of a new one."""

    def __post_init__(self) -> None:
        """Prepare the HMACs."""
        macs = {name: hmac.new(self.key, digestmod=_DIGESTS[name]) for name in self.algorithms & HMAC}
        object.__setattr__(self, "macs", macs)


KeySet = tuple[VerifyingKey, ...]


def secret_key(secret: str, algorithms: Iterable[str] | None = None) -> KeySet:
    """Return the key set of a shared secret."""
    return (VerifyingKey(key=secret.encode(), algorithms=_restrict(HMAC, algorithms)),)


def find_keys(keys: KeySet, algorithm: str, kid: str | None) -> KeySet:
    """Return the keys that may have signed a token with this header: those with its `kid` first, or else those without one."""
    if len(keys) == 1 and keys[0].kid is None:  # most sets, in a third of the time
        return keys if algorithm in keys[0].algorithms else ()
    fitting = tuple(one for one in keys if algorithm in one.algorithms)
    named = tuple(one for one in fitting if kid is not None and one.kid == kid)
    return named or tuple(one for one in fitting if one.kid is None or kid is None)


def parse_keys(text: str, algorithms: Iterable[str] | None = None) -> KeySet:
    """Parse public keys or certificates in PEM, or a JSON Web Key Set (RFC 7517). Raises KeyFileError.

    `algorithms`: the only ones that are allowed, if given.
    """
    keys = _parse_pem(text) if "-----BEGIN" in text else _parse_jwks(text)
    if len(keys) > MAX_KEYS:
        raise KeyFileError(f"has more than {MAX_KEYS} keys (delete those that are no longer used)")
    kinds = {bool(one.algorithms & HMAC) for one in keys}
    if len(kinds) > 1:
        raise KeyFileError("has shared secrets and public keys (keep one kind: they are never mixed)")
    allowed = tuple(
        VerifyingKey(key=one.key, algorithms=fitting, kid=one.kid)
        for one in keys
        if (fitting := _restrict(one.algorithms, algorithms))
    )
    if keys and not allowed:
        possible = ", ".join(sorted(frozenset().union(*(one.algorithms for one in keys))))
        raise KeyFileError(f"has no key for these algorithms (its keys are for {possible})")
    if not allowed:
        raise KeyFileError("has no key that verifies signatures (write PEM public keys, or a JSON Web Key Set)")
    return allowed


def _restrict(own: frozenset[str], algorithms: Iterable[str] | None) -> frozenset[str]:
    return own if algorithms is None else own.intersection(algorithms)


def _parse_pem(text: str) -> KeySet:
    keys = []
    for block in _PEM.finditer(text):
        kind = block[1]
        if "PRIVATE" in kind:
            raise KeyFileError("has a private key (write the public one: openssl pkey -in OLD -pubout -out NEW)")
        try:
            if kind == "CERTIFICATE":
                key: Any = load_pem_x509_certificate(block[0].encode()).public_key()
            else:
                key = load_pem_public_key(block[0].encode())
        except (ValueError, UnsupportedAlgorithm):
            raise KeyFileError("has a damaged PEM key (copy the file again)") from None
        keys.append(VerifyingKey(key=key, algorithms=algorithms_of(key)))
    return tuple(keys)


def _parse_jwks(text: str) -> KeySet:
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise KeyFileError("is neither PEM nor a JSON Web Key Set") from None
    members = document.get("keys") if isinstance(document, dict) else None
    if members is None and isinstance(document, dict) and "kty" in document:
        members = [document]
    if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
        raise KeyFileError('is not a JSON Web Key Set (it would be {"keys": […]})')
    keys = [_parse_jwk(member) for member in members if member.get("use", "sig") == "sig"]
    return tuple(one for one in keys if one is not None)


def _parse_jwk(member: dict[str, Any]) -> VerifyingKey | None:
    """Parse one key; None if it is of a type that is not used here (RFC 7517 5: ignore it)."""
    if member.get("kty") != "oct" and "d" in member:
        raise KeyFileError("has a private key (write the public one, without the member d)")
    algorithm, kid = member.get("alg"), member.get("kid")
    try:
        key = jwt.PyJWK({name: value for name, value in member.items() if name != "alg"}).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    algorithms = algorithms_of(key)
    if isinstance(algorithm, str):
        algorithms &= {algorithm}
    return VerifyingKey(key=key, algorithms=algorithms, kid=kid if isinstance(kid, str) else None) if algorithms else None


def algorithms_of(key: object) -> frozenset[str]:
    """Return the algorithms of a key's type."""
    match key:
        case bytes():
            return HMAC
        case rsa.RSAPublicKey():
            if key.key_size < MIN_RSA:
                raise KeyFileError(f"has an RSA key of {key.key_size} bits (use at least {MIN_RSA})")
            return RSA
        case ec.EllipticCurvePublicKey():
            return CURVES.get(key.curve.name, frozenset())
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return EDWARDS
    return frozenset()
