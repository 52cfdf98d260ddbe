"""A started process and its group, and the request that starts one."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import anyio
import structlog

from scalesocket.backends.backend import Exit
from scalesocket.backends.spawner.processes import kill_group
from scalesocket.backends.spawner.protocol import encode
from scalesocket.io.poller import Poller

RELEASE_TIMEOUT: Final = 5.0
"""Seconds for which killed processes are waited for. Only one that the kernel cannot end takes longer."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnRequest:
    """A program to start: with which arguments and environment, where, as which user and within which limits."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    """The whole environment of the child."""
    cwd: str
    user: str | None = None
    group: str | None = None
    """None: the group of `user`."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """By the keys of `limits` in the site file; in bytes, seconds or numbers."""

    def with_env(self, **variables: str) -> "SpawnRequest":
        """Return the request with more variables."""
        return replace(self, env={**self.env, **variables})

    def packet(self, number: int) -> bytes:
        """Encode the request for the spawner (spawner/protocol.py)."""
        return encode(
            {
                "do": "spawn",
                "id": number,
                "argv": self.argv,
                "env": {**self.env},
                "cwd": self.cwd,
                "user": self.user,
                "group": self.group,
                "limits": {**self.limits},
            }
        )


class Child:
    """A started process, which leads a group of its own, and the gateway's ends of its pipes.

    The requester owns the three non-blocking descriptors. It must release the child, which kills what is left of its group;
    until then the kernel does not reuse `pid` for another process or group.
    """

    __slots__ = ("_on_release", "_released", "ended", "is_released", "pid", "poller", "stderr", "stdin", "stdout")

    def __init__(
        self, pid: int, stdin: int, stdout: int, stderr: int, *, poller: Poller, on_release: Callable[["Child"], None]
    ) -> None:
        self._on_release = on_release
        self.poller = poller
        """The poller for the pipes."""
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        """Done when the process itself has ended; its group may still have others. Never cancel it: use `wait_exit`."""
        self.is_released = False
        self._released = asyncio.Event()

    @property
    def exit(self) -> Exit | None:
        """How the process ended; None while it runs."""
        return self.ended.result() if self.ended.done() else None

    async def wait_exit(self) -> Exit:
        """Wait until the process itself has ended."""
        return await asyncio.shield(self.ended)

    def signal_group(self, number: int) -> None:
        """Send a signal to every process of the group, unless it is released."""
        if not self.is_released:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # the remaining ones may run as another user
                os.killpg(self.pid, number)

    def release(self) -> None:
        """Kill what is left of the group and have it reaped. Calls may repeat."""
        if not self.is_released:
            kill_group(self.pid)
            self.is_released = True
            self._on_release(self)

    async def wait_gone(self) -> None:
        """Wait until it is released and the whole group is reaped, without a timeout."""
        await self._released.wait()

    async def wait_released(self) -> None:
        """Wait until the whole released group is reaped, at most RELEASE_TIMEOUT seconds."""
        try:
            with anyio.fail_after(RELEASE_TIMEOUT):
                await self.wait_gone()
        except TimeoutError:
            log.error(
                "killed processes still running",
                group=self.pid,
                after=RELEASE_TIMEOUT,
                hint="see their state with ps: D is a hung disk or network mount",
            )
            self.note_exit(-signal.SIGKILL)

    def discard(self) -> None:
        """Kill a child that is not wanted, and close its pipes, which must not have another owner."""
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.release()

    async def abandon(self) -> None:
        """Discard a child, and wait until its whole group is reaped, also when cancelled."""
        self.discard()
        with anyio.CancelScope(shield=True):
            await self.wait_released()

    def note_exit(self, status: int) -> None:
        """Record that the process ended, with a status as in subprocess. Called by the spawner client."""
        if not self.ended.done() and not self.ended.get_loop().is_closed():
            self.ended.set_result(Exit(status=status) if status >= 0 else Exit(signal=-status))

    def note_released(self) -> None:
        """Record that the whole group is reaped. Called by the spawner client."""
        self._released.set()
