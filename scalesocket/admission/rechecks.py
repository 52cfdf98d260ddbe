"""Asks hooks again about the clients that they let in: `auth.hook.recheck`.

`run` is the parent of all its tasks; `open_gateway` starts it.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

import anyio
import structlog
from msgspec.structs import replace

from scalesocket.auth.denial import Denial
from scalesocket.auth.hook import HookClient, HookIdentity
from scalesocket.edge.client import Client
from scalesocket.errors import NOT_AUTHENTICATED

log = structlog.get_logger("auth")

TICK: Final = 0.25
"""Seconds between two looks for clients that are due."""
JITTER: Final = 0.1
"""The part of `recheck` by which the first question may come early, so that clients that joined together are spread."""


class Rechecks:
    """The clients of hooks with `recheck`, by app, those that were asked about least recently first."""

    def __init__(self, find_hook: Callable[[str], HookClient | None]) -> None:
        """Ask the hook that `find_hook` returns for an app."""
        self._find_hook = find_hook
        self._asked_at: dict[str, dict[Client, float]] = {}
        self._workers: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._asked_at.values()))

    def add(self, client: Client) -> None:
        """Remember a client that has joined, if a hook let it in."""
        if isinstance(client.identity, HookIdentity):
            app = client.identity.question.app
            hook = self._find_hook(app)
            early = 0.0 if hook is None else random.uniform(0, JITTER) * (hook.settings.recheck or 0.0)
            self._asked_at.setdefault(app, {})[client] = now() - early

    def remove(self, client: Client) -> None:
        """Forget a client that has left."""
        if isinstance(client.identity, HookIdentity):
            app = client.identity.question.app
            members = self._asked_at.get(app)
            if members is not None and members.pop(client, None) is not None and not members:
                del self._asked_at[app]

    async def run(self) -> None:
        """Ask about each client at the interval of its hook, until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.sleep(TICK)
                for app in self._asked_at:
                    hook = self._find_hook(app)
                    workers = self._workers.get(app, 0)
                    if hook is not None and workers < hook.most_again and self._find_due(app, hook) is not None:
                        self._workers[app] = workers + 1
                        tasks.start_soon(self._work, app, name="ask hook again")

    async def _work(self, app: str) -> None:
        """Ask about one client after the other, until none is due. While some are, `run` starts more of these."""
        try:
            while (hook := self._find_hook(app)) is not None and (client := self._find_due(app, hook)) is not None:
                members = self._asked_at[app]
                del members[client]
                members[client] = now()  # the last one now
                try:
                    await self._ask(hook, client)
                except Exception:
                    log.exception("asking a hook again failed", app=app, client=client.id)
        finally:
            self._workers[app] -= 1

    def _find_due(self, app: str, hook: HookClient) -> Client | None:
        members, interval = self._asked_at.get(app), hook.settings.recheck
        if not members or interval is None:
            return None
        client, asked_at = next(iter(members.items()))
        return client if now() >= asked_at + interval else None

    async def _ask(self, hook: HookClient, client: Client) -> None:
        before = client.identity
        assert isinstance(before, HookIdentity)
        answer = await hook.ask_again(before.question)
        if client not in self._asked_at.get(before.question.app, ()):  # it has left meanwhile
            return
        if isinstance(answer, Denial):
            is_refused = answer.status in (401, 403)  # else the hook is unavailable
        else:
            is_refused = (answer.user, answer.roles) != (before.user, before.roles) or not answer.may_enter(before.question.room)
            client.identity = replace(before, rooms=answer.rooms, expires_at=answer.expires_at)
        if is_refused:
            log.info("client refused by its hook", app=before.question.app, room=before.question.room, client=client.id)
            client.room.expel(client, NOT_AUTHENTICATED)


def now() -> float:
    """Return the time of the event loop."""
    return asyncio.get_running_loop().time()
