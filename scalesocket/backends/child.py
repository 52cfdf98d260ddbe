"""A process that was started, its group, and what to ask for to have one started."""

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
"""Seconds killed processes have to be gone. Only one that the kernel can't end takes longer."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnRequest:
    """What to start, and as whom."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    """The whole environment of the child."""
    cwd: str
    user: str | None = None
    group: str | None = None
    """None: the group of `user`."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """By the names of the site file: `memory` and the rest; in bytes, seconds or numbers."""

    def with_env(self, **variables: str) -> "SpawnRequest":
        """The same with more variables."""
        return replace(self, env={**self.env, **variables})

    def packet(self, number: int) -> bytes:
        """The request as the spawner reads it."""
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
    """A process that was started, which leads a group of its own, and our ends of its pipes.

    The three descriptors are non-blocking and belong to who asked for the child. It must be released, which kills
    what is left of its group; until then `pid` is not given to any other process or group.
    """

    __slots__ = ("_on_release", "_released", "ended", "is_released", "pid", "poller", "stderr", "stdin", "stdout")

    def __init__(
        self, pid: int, stdin: int, stdout: int, stderr: int, *, poller: Poller, on_release: Callable[["Child"], None]
    ) -> None:
        self._on_release = on_release
        self.poller = poller
        """What watches the pipes that are read."""
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        """Done when the process itself has ended; others of its group may live on. Never cancel it: use `wait_exit`."""
        self.is_released = False
        self._released = asyncio.Event()

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it runs."""
        return self.ended.result() if self.ended.done() else None

    async def wait_exit(self) -> Exit:
        """Wait until the process itself has ended."""
        return await asyncio.shield(self.ended)

    def signal_group(self, number: int) -> None:
        """Send a signal to every process of the group; without effect once it was released."""
        if not self.is_released:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # the last may have become another user
                os.killpg(self.pid, number)

    def release(self) -> None:
        """Kill what is left of the group and let it be reaped. Calls may repeat."""
        if not self.is_released:
            kill_group(self.pid)
            self.is_released = True
            self._on_release(self)

    async def wait_gone(self) -> None:
        """Wait until somebody has released it and nothing of the group is left, however long that takes."""
        await self._released.wait()

    async def wait_released(self) -> None:
        """Wait until nothing of the released group is left, but at most RELEASE_TIMEOUT."""
        try:
            with anyio.fail_after(RELEASE_TIMEOUT):
                await self.wait_gone()
        except TimeoutError:
            log.error("killed processes still running", group=self.pid)
            self.note_exit(-signal.SIGKILL)

    def discard(self) -> None:
        """Kill a child nobody wants, and close its pipes, which nobody has taken over."""
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.release()

    async def abandon(self) -> None:
        """Discard a child nobody wants, and wait until nothing of its group is left, also when cancelled."""
        self.discard()
        with anyio.CancelScope(shield=True):
            await self.wait_released()

    def note_exit(self, status: int) -> None:
        """Called by the spawner's side: the process ended, with a status as in subprocess."""
        if not self.ended.done() and not self.ended.get_loop().is_closed():
            self.ended.set_result(Exit(status=status) if status >= 0 else Exit(signal=-status))

    def note_released(self) -> None:
        """Called by the spawner's side: nothing of the group is left."""
        self._released.set()
