"""The `[apps.NAME.auth]` table: who may connect to an app, each key with its type, default and meaning."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, create_model, model_validator

from scalesocket.config.hook_settings import Hook
from scalesocket.config.keys import Table, live_key
from scalesocket.config.units import AnyDuration, PositiveDuration
from scalesocket.config.urls import KeysUrl
from scalesocket.config.values import AbsolutePath, Count, Flag, Names, one_or_more, read_list, string_form

WAYS: Final = ("jwt", "tokens_file", "users_file", "hook", "header")
"""The keys that name a way to authenticate. With none of them, only `anonymous` lets anyone in."""
KEY_SOURCES: Final = ("secret", "keys_file", "keys_url")
"""The keys of `jwt` that say what verifies a token."""
ALGORITHMS: Final = (
    *("HS256", "HS384", "HS512"),
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Signature algorithms of RFC 7518 and RFC 8037. `none` is not among them."""

MIN_SECRET: Final = 16
"""Characters of the shortest shared secret. `check` warns of one that is shorter than its algorithm's digest (RFC 7518 3.2)."""

_PUBLIC_KEY: Final = re.compile(r"\s*(?:-----BEGIN|ssh-|ecdsa-|\{)")
_PLACE: Final = re.compile(r"ticket|header|subprotocol|(?:cookie|query):[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CLAIM: Final = re.compile(r'[^"\\\0-\x1f]+')
_HEADER: Final = re.compile(r"[!#$%&'*+.^`|~0-9A-Za-z-]+")


def _check_places(places: tuple[str, ...]) -> tuple[str, ...]:
    for place in places:
        if not _PLACE.fullmatch(place):
            raise ValueError(f"unknown value {str(place)!r} (one of: ticket, header, subprotocol, cookie:NAME, query:NAME)")
    return places


def _check_header(name: str) -> str:
    if "_" in name and _HEADER.fullmatch(name.replace("_", "-")):
        raise ValueError(f"{str(name)!r} has a '_', which many proxies drop (write {name.replace('_', '-')!r})")
    if not _HEADER.fullmatch(name):
        raise ValueError(f'{str(name)!r} is not the name of a header field (write for example "Remote-User")')
    return name


def _check_claim(name: str) -> str:
    if not _CLAIM.fullmatch(name):
        raise ValueError(f"{str(name)!r} is not the name of a claim (delete quotes, backslashes and control characters)")
    return name


def _check_algorithms(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in ALGORITHMS:
            raise ValueError(f"unknown value {str(name)!r} (one of: {', '.join(ALGORITHMS)})")
    return names


Places = Annotated[tuple[str, ...], BeforeValidator(read_list), AfterValidator(_check_places), one_or_more("list of places")]
Algorithms = Annotated[
    tuple[str, ...], BeforeValidator(read_list), AfterValidator(_check_algorithms), one_or_more("list of names")
]
HeaderName = Annotated[str, AfterValidator(_check_header), string_form("header name")]
Claim = Annotated[str, AfterValidator(_check_claim), string_form("claim name")]


def _check_secret(secret: str | None) -> str | None:
    """Refuse values that are not secrets: short ones, such as an empty file, and public keys, which anyone may have."""
    if secret is None:
        return None
    if len(secret.strip()) < MIN_SECRET:
        raise ValueError(f"has fewer than {MIN_SECRET} characters (write a random one: openssl rand -hex 32)")
    if _PUBLIC_KEY.match(secret):
        raise ValueError("is a key or a key set, not a shared secret (use keys_file for public keys)")
    return secret


class Jwt(Table):
    """How JSON Web Tokens (RFC 7519) are verified, and which of their claims are used."""

    secret: Annotated[
        str | None,
        AfterValidator(_check_secret),
        Field(repr=False),
        live_key("Shared secret of HMAC signatures, at least 32 random bytes", secret=True),
    ] = None
    keys_file: Annotated[
        AbsolutePath | None,
        live_key("Public keys: PEM, or a JSON Web Key Set. The file is watched; a broken one leaves the last keys in use"),
    ] = None
    keys_url: Annotated[
        KeysUrl | None,
        Field(repr=False),
        live_key(
            "URL of a JSON Web Key Set with public keys, `https` or on this machine. Fetched at start and from time to time",
            url=True,
        ),
    ] = None
    algorithms: Annotated[
        Algorithms | None,
        live_key("Signature algorithms. A key is used only with those of its own type", default="those of the key's type"),
    ] = None
    audience: Annotated[
        Names | None,
        live_key("`aud` that tokens must have, one of these", default="the app's name, for tokens that have `aud`"),
    ] = None
    issuer: Annotated[str | None, live_key("`iss` that tokens must have")] = None
    leeway: Annotated[AnyDuration, live_key("Difference of clocks that is tolerated")] = 10.0
    require_exp: Annotated[Flag, live_key("Refuse tokens that never expire")] = True
    user: Annotated[Claim, live_key("Claim with the name of the user")] = "sub"
    rooms: Annotated[
        Claim, live_key("Claim with the names or patterns (`*` within a name) of rooms; without it, all of this app")
    ] = "rooms"
    roles: Annotated[Claim, live_key('Claim with the roles `"read"`, `"write"` and `"create"`; without it, `"write"`')] = "roles"
    info: Annotated[Claim, live_key("Claim with anything else that the program should know, as `#INFO`")] = "info"

    @model_validator(mode="after")
    def _has_one_source(self) -> "Jwt":
        given = [name for name in KEY_SOURCES if getattr(self, name) is not None]
        if not given:
            raise ValueError("verifies nothing (set secret, secret_file, keys_file or keys_url)")
        if len(given) > 1:
            raise ValueError(f"has two sources of keys, {' and '.join(given)} (keep one)")
        kinds = {name.startswith("HS") for name in self.algorithms or ()}
        if self.secret is not None and False in kinds:
            raise ValueError("has a secret and an algorithm for public keys (HMAC and public keys are never mixed)")
        if self.keys_url is not None and True in kinds:
            raise ValueError("has keys_url, which gives public keys, and an HMAC algorithm (they are never mixed)")
        if len(kinds) > 1:
            raise ValueError("has HMAC algorithms and algorithms for public keys (keep one kind: they are never mixed)")
        return self


class Failures(Table):
    """How many failed attempts one address has."""

    limit: Annotated[Count, live_key("Failed attempts in `per`; further ones get 429. IPv6 addresses count by their /64")] = 20
    per: Annotated[PositiveDuration, live_key("Time in which `limit` attempts may fail")] = 60.0


_From: Final[Any] = Annotated[
    Places,
    live_key(
        'Where a token is looked for: `"ticket"` (`?ticket=`), `"header"` (`Authorization: Bearer`), `"subprotocol"` '
        '(`new WebSocket(url, ["bearer", token])`), `"cookie:NAME"`, `"query:NAME"`. URLs end up in logs'
    ),
]
if TYPE_CHECKING:

    class _HasFrom(Table):
        """A table with the key `from`, which is a keyword of Python."""

else:
    _HasFrom = create_model("_HasFrom", __base__=Table, **{"from": (_From, ("ticket", "header", "subprotocol"))})


class Auth(_HasFrom):
    """Who may connect. Several ways may be given; the first that finds a credential of its kind decides."""

    jwt: Annotated[Jwt | None, live_key("JSON Web Tokens")] = None
    tokens_file: Annotated[
        AbsolutePath | None,
        live_key("File with a line `NAME:SHA256[:ROOMS[:ROLES]]` for each token, with the hash in hexadecimal. Watched"),
    ] = None
    users_file: Annotated[
        AbsolutePath | None, live_key("htpasswd file with bcrypt hashes, for HTTP Basic authentication. Watched")
    ] = None
    hook: Annotated[Hook | None, live_key("A server that decides who may come in")] = None
    header: Annotated[
        HeaderName | None,
        live_key(
            'Header in which a proxy names the user, such as `"Remote-User"`. Trusted from `trusted_proxies` alone, and removed '
            "from all other requests"
        ),
    ] = None
    anonymous: Annotated[Flag, live_key("Let clients without a credential in, as guests")] = False
    failures: Annotated[Failures, live_key("Failed attempts of one address")] = Failures()
    grace: Annotated[AnyDuration, live_key("Time for which a client may stay after its credential has expired")] = 0.0
    create: Annotated[
        Literal["anyone", "role"],
        live_key('Who may open a room that does not exist: whoever may enter it, or only the role `"create"`'),
    ] = "anyone"
    reject: Annotated[
        Literal["auto", "http", "close"],
        live_key(
            'How a client is refused: `"http"` with 401, 403 or 429; `"close"` with the close code 4401 or 4403 after an '
            'accepted handshake, which a page can read; `"auto"` with the close code if the request has an `Origin`'
        ),
    ] = "auto"

    @property
    def places(self) -> tuple[str, ...]:
        """The value of `from`."""
        found: tuple[str, ...] = getattr(self, "from")
        return found

    @model_validator(mode="after")
    def _lets_someone_in(self) -> "Auth":
        if not self.anonymous and all(getattr(self, way) is None for way in WAYS):
            raise ValueError(f"lets nobody in (set one of: {', '.join(WAYS)}, or anonymous = true)")
        return self
