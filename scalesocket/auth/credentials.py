"""Finds the credentials of a request, and removes them from it, so that no program, template or log sees them.

What is in one of the fixed places (`Authorization`, `?ticket=`, the subprotocol after `bearer`) is removed whether or not the app
reads it: it is a credential, perhaps for another app.
"""

import base64
import binascii
from typing import Final
from urllib.parse import unquote_plus

import msgspec

from scalesocket.config.model import Auth
from scalesocket.wire.handshake import Request

BEARER: Final = "bearer"
"""The subprotocol before a token, and the scheme of a token in `Authorization` (RFC 6750 2.1)."""
TICKET: Final = "ticket"


class Credentials(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a client showed. Nothing of it appears in the representation of the object."""

    tokens: tuple[str, ...] = ()
    """Tokens, in the order of `auth.from`. An empty one stands for one that cannot be read."""
    ticket: str | None = None
    basic: tuple[str, str] | None = None
    """User and password; two empty strings if they cannot be read."""
    user: str | None = None
    """The value of `auth.header`, if a trusted proxy sent it."""
    is_for_hook: bool = False
    """Whether the client sent anything that only `auth.hook` can judge."""
    has_bearer: bool = False
    """Whether the client offered the subprotocol `bearer`, which must be answered."""

    def __repr__(self) -> str:
        """Show no credential."""
        return "Credentials(…)"

    @property
    def is_empty(self) -> bool:
        """Whether the client showed nothing."""
        if self.tokens or self.is_for_hook:
            return False
        return self.ticket is None and self.basic is None and self.user is None


class CredentialFinder:
    """Finds credentials in the places that one app uses."""

    __slots__ = (
        "_cookies",
        "_has_more",
        "_has_subprotocol",
        "_has_ticket",
        "_header",
        "_hook",
        "_is_anonymous",
        "_of_hook",
        "_places",
        "_queries",
        "_reads_bearer",
        "_takes_basic",
        "_takes_tokens",
    )

    def __init__(self, auth: Auth) -> None:
        """Look where `auth.from` says, and for `auth.header`."""
        self._places = tuple(place.partition(":")[::2] for place in auth.places)
        self._has_subprotocol, self._has_ticket = "subprotocol" in auth.places, TICKET in auth.places
        self._takes_tokens = auth.jwt is not None or auth.tokens_file is not None
        self._takes_basic = auth.users_file is not None
        self._header = None if auth.header is None else fold(auth.header)
        self._hook, self._is_anonymous = auth.hook, auth.anonymous
        self._of_hook = frozenset() if auth.hook is None else frozenset(name.lower() for name in auth.hook.headers)
        self._cookies = frozenset(place.partition(":")[2] for place in auth.places if place.startswith("cookie:"))
        queries = [place.partition(":")[2] for place in auth.places if place.startswith("query:")]
        self._queries = frozenset(name.casefold() for name in (*queries, TICKET))
        self._has_more = bool(self._hook or self._header or self._cookies)
        self._reads_bearer = self._takes_tokens and "header" in auth.places

    def find(self, request: Request, *, is_from_proxy: bool) -> tuple[Credentials, Request]:
        """Return the credentials of a request of the kinds that the app takes, and the request without them.

        Where only `Authorization` can have some, it is removed from `request` itself: a copy costs as much as the search.

        `is_from_proxy`: whether the peer is one of `trusted_proxies`, so that it may name the user in a header.
        """
        headers = request.headers
        scheme, value = _read_authorization(headers.get("authorization"))
        offer = headers.get("sec-websocket-protocol")
        if offer is None and not request.query and not self._has_more:  # most requests: nothing but `Authorization`
            headers.pop("authorization", None)
            return Credentials(
                tokens=(value,) if scheme == BEARER and self._reads_bearer else (),
                basic=_read_basic(value) if scheme == "basic" and self._takes_basic else None,
            ), request
        offered = () if offer is None else _split(offer, ",")
        has_bearer = self._has_subprotocol and BEARER in offered
        tokens = []
        for kind, name in self._places:
            if kind == "header" and scheme == BEARER:
                tokens.append(value)
            elif kind == "subprotocol" and has_bearer:
                tokens.append(_after(BEARER, offered))
            elif kind == "cookie":
                tokens += _find_cookie(request, name)
            elif kind == "query":
                tokens += _find_parameter(request, name)
        found = Credentials(
            tokens=tuple(tokens) if self._takes_tokens else (),
            ticket=next(iter(_find_parameter(request, TICKET)), None) if self._has_ticket and request.query else None,
            basic=_read_basic(value) if scheme == "basic" and self._takes_basic else None,
            user=(headers.get(self._header) or None) if self._header is not None and is_from_proxy else None,
            is_for_hook=self._hook is not None and self._is_for_hook(request),
            has_bearer=has_bearer,
        )
        return found, self._without_credentials(request, offered)

    def _is_for_hook(self, request: Request) -> bool:
        """Whether there is a header that the hook gets, or a query, except where guests need no credential."""
        has_query = bool(request.query) and not self._is_anonymous
        return has_query or not self._of_hook or not self._of_hook.isdisjoint(request.headers)

    def _without_credentials(self, request: Request, offered: tuple[str, ...]) -> Request:
        """Remove credentials. `offered`: the subprotocols."""
        headers = dict(request.headers)
        headers.pop("authorization", None)
        for name in self._of_hook:
            headers.pop(name, None)
        if self._header is not None:  # a header that names the user, in any spelling
            headers = {name: value for name, value in headers.items() if fold(name) != self._header}
        if (kept := _without_tokens(offered)) != offered:
            _set(headers, "sec-websocket-protocol", ", ".join(kept))
        if self._cookies and "cookie" in headers:
            pairs = _split(headers["cookie"], ";")
            _set(headers, "cookie", "; ".join(pair for pair in pairs if pair.partition("=")[0].strip() not in self._cookies))
        query = request.query
        if query:
            query = "&".join(item for item in query.split("&") if _name_of(item).casefold() not in self._queries)
        target = f"{request.path}?{query}" if query else request.path
        return request._replace(headers=headers, query=query, target=target)


def fold(name: str) -> str:
    """Return the spelling of a header's name that stands for all that CGI folds into one variable (RFC 3875 4.1.18)."""
    return name.lower().replace("_", "-")


def _read_authorization(header: str | None) -> tuple[str, str]:
    """Return scheme, in lower case, and credentials. Both are empty without the header; the latter also if it is malformed."""
    if header is None:
        return "", ""
    scheme, _, value = header.partition(" ")
    value = value.strip(" ")
    return scheme.lower(), "" if " " in value or "," in value else value


def _read_basic(value: str) -> tuple[str, str]:
    """Return user and password (RFC 7617 2); both empty if they cannot be read."""
    try:
        user, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return (user, password) if colon else ("", "")


def _split(value: str, separator: str) -> tuple[str, ...]:
    return tuple(stripped for part in value.split(separator) if (stripped := part.strip(" \t")))


def _without_tokens(offered: tuple[str, ...]) -> tuple[str, ...]:
    """Drop every `bearer`, in any case, and the token after it."""
    is_scheme = [name.lower() == BEARER for name in offered]
    is_token = [False, *is_scheme]
    return tuple(name for name, scheme, token in zip(offered, is_scheme, is_token, strict=False) if not (scheme or token))


def _after(name: str, names: tuple[str, ...]) -> str:
    at = names.index(name) + 1
    return names[at] if at < len(names) else ""


def _find_cookie(request: Request, name: str) -> list[str]:
    """Return the first cookie of this name, which is that of the most specific path (RFC 6265 5.4)."""
    for pair in _split(request.headers.get("cookie", ""), ";"):
        key, equals, value = pair.partition("=")
        if equals and key.strip() == name:
            return [value.strip().strip('"')]
    return []


def _find_parameter(request: Request, name: str) -> list[str]:
    """Return the first parameter of this name."""
    for item in request.query.split("&"):
        if _name_of(item) == name:
            return [unquote_plus(item.partition("=")[2])]
    return []


def _name_of(item: str) -> str:
    return unquote_plus(item.partition("=")[0])


def _set(headers: dict[str, str], name: str, value: str) -> None:
    """Set a header, or remove it if the value is empty."""
    if value:
        headers[name] = value
    else:
        del headers[name]
