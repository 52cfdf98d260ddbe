"""Decides who may enter the rooms of one app, by the ways that its `auth` table names."""

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from scalesocket.auth.attempt import Attempt, Verdict, Verifier
from scalesocket.auth.credentials import CredentialFinder
from scalesocket.auth.denial import BAD_CREDENTIAL, NO_CREDENTIAL, WRONG_ROOM, Denial
from scalesocket.auth.fetched_jwt import FetchedJwtVerifier
from scalesocket.auth.header import HeaderVerifier
from scalesocket.auth.identity import Identity
from scalesocket.auth.jwt import JwtVerifier
from scalesocket.auth.keys import KeySet, secret_key
from scalesocket.auth.resources import Resources
from scalesocket.auth.sources import Parsed, sources_of
from scalesocket.auth.tickets import TicketVerifier
from scalesocket.auth.tokens import TokenVerifier
from scalesocket.auth.turns import Turns
from scalesocket.auth.users import UserVerifier
from scalesocket.config.model import App, Auth
from scalesocket.wire.handshake import Request

GUEST = Identity(method="anonymous")
"""A client without a credential, where `auth.anonymous` lets it in."""


class Check(NamedTuple):
    """The result of a check."""

    verdict: Verdict | Coroutine[None, None, Verdict]
    """The decision, or a coroutine that waits for it."""
    request: Request
    """The request without credentials."""
    has_bearer: bool
    """Whether the client offered the subprotocol `bearer`, which must be answered."""
    is_from_page: bool
    """Whether a page sent it, by its `Origin`, which `request` lacks where it is one of `hook.headers`."""


class Authenticator:
    """Authenticates the clients of one app."""

    def __init__(self, app: App, auth: Auth, parsed: Parsed, *, turns: Turns, resources: Resources) -> None:
        """Decide by `auth`, the table of `app`, and by what its files contain.

        `turns` and `resources` outlive edits of the table.
        """
        self.auth = auth
        self._turns = turns
        self._finder = CredentialFinder(auth)
        self._verifiers = self._make_verifiers(app, {source.key: parsed[source] for source in sources_of(app)}, resources)

    def check(self, request: Request, room: str, *, is_from_proxy: bool, is_for_ticket: bool = False) -> Check:
        """Decide on a request to enter `room`. `is_from_proxy`: whether the peer is one of `trusted_proxies`.

        `is_for_ticket`: it asks for a ticket, which it cannot get for another ticket.
        """
        credentials, rest = self._finder.find(request, is_from_proxy=is_from_proxy)
        if is_for_ticket:
            credentials = replace(credentials, ticket=None)
        verdict = self._decide(Attempt(credentials, room, request), is_for_ticket=is_for_ticket)
        return Check(verdict, rest, credentials.has_bearer, "origin" in request.headers)

    def _decide(self, attempt: Attempt, *, is_for_ticket: bool) -> Verdict | Coroutine[None, None, Verdict]:
        is_empty = attempt.credentials.is_empty
        if not is_empty and (denial := self._turns.refusal(attempt.request.peer, self.auth.failures)) is not None:
            return denial
        for verifier in self._verifiers:
            verdict = verifier.verify(attempt)
            if verdict is not None:
                if isinstance(verdict, (Identity, Denial)):
                    return self._settle(attempt, verdict)
                return self._await(attempt, verdict)
        if self.auth.anonymous and is_empty and not is_for_ticket:
            return GUEST
        return NO_CREDENTIAL if is_empty else self._settle(attempt, BAD_CREDENTIAL)

    async def _await(self, attempt: Attempt, verdict: Coroutine[Any, Any, Verdict]) -> Verdict:
        """Wait for the attempt's turn, and for its verdict. It has failed if the client leaves before that (a cancellation)."""
        peer, limits = attempt.request.peer, self.auth.failures
        try:
            denial = await self._turns.enter(peer, limits)
            if denial is not None:
                return denial
            try:
                return self._settle(attempt, await verdict)
            except asyncio.CancelledError:
                self._count_failure(attempt)
                raise
            finally:
                self._turns.leave(peer, limits)
        finally:
            verdict.close()  # if it was never awaited

    def _count_failure(self, attempt: Attempt) -> bool:
        return self._turns.failures.add(attempt.request.peer, self.auth.failures, time.monotonic())

    def _settle(self, attempt: Attempt, verdict: Verdict) -> Verdict:
        """Count a failed attempt, and check that the credential is for this room.

        The verdict on an attempt counts for nothing if too many have failed in other processes meanwhile.
        """
        if isinstance(verdict, Denial):
            if verdict.is_failure and not self._count_failure(attempt):
                return self._turns.refuse(attempt.request.peer, self.auth.failures)
            return verdict
        if self._turns.failures.is_shared:
            late = self._turns.refusal(attempt.request.peer, self.auth.failures)
            if late is not None:
                return late
        return verdict if verdict.may_enter(attempt.room) else WRONG_ROOM

    def _make_verifiers(self, app: App, files: Mapping[str, Any], resources: Resources) -> Sequence[Verifier]:
        """Make the ways of the app, in the order in which they are tried. `files`: what they contain, by the key of `auth`."""
        auth = self.auth
        verifiers: list[Verifier] = [TicketVerifier(app.name, lambda: resources.tickets)]
        if auth.jwt is not None:
            jwt, source = auth.jwt, resources.find_source(auth)
            if source is not None:
                verifiers.append(FetchedJwtVerifier(jwt, app.name, source))
            else:
                keys: KeySet = files["jwt.keys_file"] if jwt.secret is None else secret_key(jwt.secret, jwt.algorithms)
                verifiers.append(JwtVerifier(jwt, app.name, lambda: keys))
        if auth.tokens_file is not None:
            verifiers.append(TokenVerifier(lambda: files["tokens_file"]))
        if auth.users_file is not None:
            verifiers.append(UserVerifier(lambda: files["users_file"], resources.hasher))
        if auth.header is not None:
            verifiers.append(HeaderVerifier())
        hook = resources.find_hook(app.name)
        return verifiers if hook is None else [*verifiers, hook]
