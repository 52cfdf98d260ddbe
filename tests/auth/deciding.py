"""Decisions on requests, without rooms and sockets."""

import asyncio
from collections.abc import Mapping
from typing import Any

import anyio

from scalesocket.auth.attempt import Verdict
from scalesocket.auth.authenticators import Authenticators
from scalesocket.auth.denial import Denial
from scalesocket.auth.identity import Identity
from scalesocket.config.model import App, Site
from scalesocket.wire.handshake import Request, parse_request

PEER = ("192.0.2.1", 4321)


def request_of(path: str, headers: Mapping[str, str], peer: tuple[str, int] | None = PEER) -> Request:
    lines = [f"GET {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items())]
    return parse_request("\r\n".join(lines).encode(), peer=peer, local=None, is_secure=False)


class Door:
    """The authentication of one app, `game`."""

    def __init__(self, **auth: Any) -> None:
        app = App(name="game", command=["cat"], auth=auth)
        self.site = Site(apps={"game": app})
        self.authenticators = Authenticators(self.site)
        self.passed: Request | None = None
        """The last request, without credentials."""

    def decide(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        room: str = "one",
        query: str = "",
        peer: tuple[str, int] | None = PEER,
        is_from_proxy: bool = False,
    ) -> Verdict:
        request = request_of(f"/game/{room}{query}", headers or {}, peer)
        check = self.authenticators["game"].check(request, room, is_from_proxy=is_from_proxy)
        self.passed = check.request
        verdict = check.verdict
        return verdict if isinstance(verdict, Identity | Denial) else asyncio.run(verdict)

    async def check(self, headers: Mapping[str, str], peer: tuple[str, int] | None = PEER) -> Verdict:
        """Decide in the event loop of the caller, in which hooks are asked."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.authenticators.resources.run)
            request = request_of("/game/one", headers, peer)
            verdict = self.authenticators["game"].check(request, "one", is_from_proxy=False).verdict
            decided = verdict if isinstance(verdict, Identity | Denial) else await verdict
            await anyio.lowlevel.checkpoint()  # so that `run` has started, which closes the HTTP client
            tasks.cancel_scope.cancel()
        return decided

    async def reload(self) -> None:
        """Read the files again, as an edit does."""
        await self.authenticators.prepare(self.site)
        self.authenticators.apply(self.site)

    def admits(self, headers: Mapping[str, str] | None = None, **options: Any) -> Identity:
        """Decide; the client must be let in."""
        verdict = self.decide(headers, **options)
        assert isinstance(verdict, Identity), verdict
        return verdict

    def denies(self, headers: Mapping[str, str] | None = None, **options: Any) -> str:
        """Decide; return the reason why the client is not let in."""
        verdict = self.decide(headers, **options)
        assert isinstance(verdict, Denial), verdict
        return verdict.reason
