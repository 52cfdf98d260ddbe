"""The process of a room: its pipes, how it is stopped, and its standard error, which goes to the log."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import structlog

from scalesocket.backends.backend import Exit
from scalesocket.backends.child import Child
from scalesocket.backends.line_log import LineLog
from scalesocket.io.pipes import PipeReader, PipeWriter

GRACE: Final = 0.5
"""Seconds a process has, after its input ended, to go by itself before it is sent the stop signal."""

log = structlog.get_logger()


class Process:
    """A child with its three pipes; to be stopped, or killed, exactly once."""

    def __init__(self, child: Child, stdin: PipeWriter, stdout: PipeReader, *, app: str, room: str) -> None:
        """Take the child over: its pipes and its release. Its stderr goes to the log."""
        self._child = child
        self._names = {"app": app, "room": room}
        self.stdin = stdin
        self.stdout = stdout
        self._lines = LineLog("stderr", app=app, room=room, pid=child.pid)
        self._stderr = PipeReader(child.stderr, poller=child.poller, on_chunk=self._lines.feed)

    @property
    def pid(self) -> int:
        """The process that was started, and the number of its group."""
        return self._child.pid

    @property
    def ended(self) -> asyncio.Future[Exit]:
        """Done when the process that was started is gone; others of its group may live on. Not to be cancelled."""
        return self._child.ended

    async def wait_exit(self) -> Exit:
        """Wait until the process that was started is gone."""
        return await self._child.wait_exit()

    async def stop(self, *, signal: int, timeout: float, wait_drained: Callable[[], Awaitable[None]]) -> Exit:
        """Climb the stop ladder: see `Backend.stop`. `wait_drained` waits until all output was delivered."""
        try:
            if not self._child.ended.done():
                self.stdin.close()
                if not await is_over(self._wait_over(wait_drained), GRACE):
                    self.stdin.abort()
                    self._child.signal_group(signal)
                    is_over_in_time = await is_over(self._wait_over(wait_drained), timeout)
                    if not is_over_in_time and not self._child.ended.done() and timeout:
                        log.warning("backend killed", **self._names, pid=self.pid, after=timeout, hint="it did not stop in time")
            self._child.release()
            await self._child.wait_released()
        finally:
            self.kill()
        return await self._child.wait_exit()

    def kill(self) -> None:
        """Kill and release the group without waiting for it, and close the pipes. Calls may repeat."""
        self._child.release()
        self.stdin.abort()
        self.stdout.finish()
        self._stderr.finish()
        self._lines.finish()

    async def wait_gone(self) -> None:
        """Wait until nothing of the killed group is left."""
        await self._child.wait_released()

    async def _wait_over(self, wait_drained: Callable[[], Awaitable[None]]) -> None:
        """Wait until it has ended and all its output was delivered.

        Once the whole group was killed by others, as when the server is told a second time to end, no output is waited
        for: who left the group may hold its end open as long as it likes.
        """
        await self._child.wait_exit()
        waits = [asyncio.ensure_future(waited) for waited in (wait_drained(), self._child.wait_gone())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


async def is_over(waited: Awaitable[object], timeout: float) -> bool:
    """Wait for something for at most `timeout` seconds; False if it did not come."""
    # Not asyncio.timeout: in a task that was cancelled and is shielded, Python before 3.11.3 takes its end for the cancel.
    with anyio.move_on_after(timeout):
        await waited
        return True
    return False
