"""One attempt to enter a room, and the interface of the ways to decide on it."""

from collections.abc import Coroutine
from typing import Any, NamedTuple, Protocol

from scalesocket.auth.credentials import Credentials
from scalesocket.auth.denial import Denial
from scalesocket.auth.identity import Identity
from scalesocket.wire.handshake import Request

Verdict = Identity | Denial


class Attempt(NamedTuple):
    """A request to enter a room, with its credentials."""

    credentials: Credentials
    room: str
    request: Request
    """With the address that trusted proxies report; in an app with `hook` as the client sent it, credentials included."""

    def __repr__(self) -> str:
        """Show no credential."""
        return f"Attempt({self.room!r})"


class Verifier(Protocol):
    """One way to authenticate."""

    def verify(self, attempt: Attempt) -> Verdict | Coroutine[Any, Any, Verdict] | None:
        """Decide on an attempt; None if it has no credential of this kind.

        A coroutine must end within a deadline of its own, and its work must not block the event loop.
        """
