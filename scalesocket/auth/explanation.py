"""What a JSON Web Token says, and why an app accepts it or not: all reasons at once, without the network."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import UNSET

from scalesocket.auth.denial import BAD_CREDENTIAL, Denial
from scalesocket.auth.identity import Identity
from scalesocket.auth.jwt import TIMES, JwtVerifier, decode_part, is_time, make_identity, open_token, read_header
from scalesocket.auth.keys import KeySet, find_keys
from scalesocket.config.auth_settings import ALGORITHMS
from scalesocket.config.model import Jwt
from scalesocket.config.units import format_duration

NOT_A_TOKEN: Final = "is not a JSON Web Token: three parts in base64url, with dots between them"


class NotATokenError(ValueError):
    """A text without the form of a JSON Web Token. The message does not quote it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token that was read, and not verified."""

    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]

    def __repr__(self) -> str:
        """Show nothing of the token."""
        return "Token(…)"

    @property
    def algorithm(self) -> str:
        """`alg`, as the token has it."""
        return str(self.header.get("alg", "none"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What one app thinks of a token."""

    identity: Identity | None
    """Who it lets in; None if it does not, or if the signature could not be checked."""
    lacks: Sequence[str]
    """Why not, in the order of the checks."""
    is_signature_unknown: bool = False
    """Whether the keys are not at hand: they are fetched by the server alone."""


def read_token(text: str) -> Token:
    """Read a token without verifying it. Raises NotATokenError."""
    parts = text.split(".")
    if len(parts) != 3:
        raise NotATokenError(NOT_A_TOKEN)
    try:
        header, claims = (msgspec.json.decode(decode_part(part.encode("ascii")), type=dict[str, Any]) for part in parts[:2])
    except (ValueError, RecursionError):
        raise NotATokenError(NOT_A_TOKEN) from None
    return Token(text=text, header=header, claims=claims)


def judge_token(token: Token, settings: Jwt, app: str, keys: KeySet | None, now: float | None = None) -> Opinion:
    """Say whether an app accepts a token, and if not, all that it lacks. `keys`: None if they are not at hand."""
    now = time.time() if now is None else now
    lacks = [*_judge_signature(token, settings, app, keys), *_judge_claims(token.claims, settings, app, now)]
    if lacks or keys is None:
        return Opinion(identity=None, lacks=lacks, is_signature_unknown=keys is None)
    verdict = _verify(token, settings, app, keys)
    if isinstance(verdict, Denial):
        return Opinion(identity=None, lacks=[f"a claim is not valid: {verdict.message}"])
    return Opinion(identity=verdict, lacks=())


def _judge_signature(token: Token, settings: Jwt, app: str, keys: KeySet | None) -> Iterator[str]:
    algorithm, kid = token.algorithm, token.header.get("kid")
    if algorithm.lower() == "none":
        yield "it is not signed (alg is none)"
        return
    if "crit" in token.header:
        yield "its header demands extensions that are not known (crit)"
    allowed = set(settings.algorithms or ALGORITHMS)
    if keys is not None:
        allowed = {name for one in keys for name in one.algorithms}
    if algorithm not in allowed:
        yield f"its algorithm is {show_value(algorithm)} ({app} accepts {', '.join(sorted(allowed))})"
        return
    if keys is None:
        return
    found = find_keys(keys, algorithm, kid if isinstance(kid, str) else None)
    if not found:
        yield f"it was signed with the key {show_value(kid)}, which {app} does not have"
    elif all(open_token(token.text, algorithm, one) is None for one in found):
        yield f"its signature is not by a key of {app}, or the token was changed"


def _verify(token: Token, settings: Jwt, app: str, keys: KeySet) -> Identity | Denial:
    """Decide as the server does."""
    parts = read_header(token.text)
    if parts is None:
        return BAD_CREDENTIAL
    return JwtVerifier(settings, app, lambda: keys).verify_token(token.text, parts, find_keys(keys, parts.algorithm, parts.kid))


def _judge_claims(claims: Mapping[str, Any], settings: Jwt, app: str, now: float) -> Iterator[str]:
    yield from _judge_audience(claims, settings, app)
    if settings.issuer is not None and claims.get("iss") != settings.issuer:
        given = f"its issuer is {show_value(claims['iss'])}" if "iss" in claims else "it has no issuer (iss)"
        yield f"{given} ({app} wants {settings.issuer})"
    for name, what in (("user", "the name of a user"), ("rooms", "a list of rooms"), ("roles", "a list of roles")):
        claim = getattr(settings, name)
        if claim in claims and isinstance(make_identity("jwt", **{name: claims[claim]}), Denial):
            yield f"{claim} is not {what}{' (null is not the same as no claim)' if claims[claim] is None else ''}"
    times = {name: claims[name] for name in TIMES if name in claims}
    wrong = [name for name, value in times.items() if not is_time(value)]
    for name in wrong:
        yield f"{name} is not a time in seconds"
    if wrong:
        return
    if "exp" not in times and settings.require_exp:
        yield "it never expires (exp is missing)"
    if "exp" in times and now >= times["exp"] + settings.leeway:
        yield f"it has expired {format_age(now - times['exp'])} ago"
    for name, what in (("nbf", "it is not valid yet: it begins"), ("iat", "it was issued in the future:")):
        if name in times and times[name] > now + settings.leeway:
            yield f"{what} in {format_age(times[name] - now)} ({name})"


def _judge_audience(claims: Mapping[str, Any], settings: Jwt, app: str) -> Iterator[str]:
    wanted, given = settings.audience or (app,), claims.get("aud", UNSET)
    if given is UNSET:
        if settings.audience is not None:
            yield f"it has no audience (aud; {app} wants {' or '.join(wanted)})"
        return
    names = given if isinstance(given, list) else [given]
    if not any(isinstance(name, str) and name in wanted for name in names):
        yield f"it is for the audience {', '.join(map(show_value, names))} ({app} wants {' or '.join(wanted)})"


def format_age(seconds: float) -> str:
    """Write a time span in whole seconds."""
    return format_duration(float(round(seconds)))


def show_value(value: object) -> str:
    """Write a value of a token so that it is safe on a terminal."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= 100 else f"{shown[:99]}…"
