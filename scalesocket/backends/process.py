"""The process of a room: its pipes, how it is stopped, and its standard error, which goes to the log."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import anyio
import structlog

from scalesocket.backends.backend import Exit
from scalesocket.backends.child import Child
from scalesocket.backends.line_log import LineLog
from scalesocket.io.pipes import PipeReader, PipeWriter

GRACE: Final = 0.5
"""Seconds in which a process may end by itself after the end of its input, before it gets the stop signal."""

log = structlog.get_logger()


class Process:
    """A child with its three pipes, which must be stopped or killed exactly once."""

    def __init__(self, child: Child, stdin: PipeWriter, stdout: PipeReader, *, app: str, room: str) -> None:
        """Own the pipes and the release of `child` from now on. Its standard error goes to the log."""
        self._child = child
        self._names = {"app": app, "room": room}
        self.stdin = stdin
        self.stdout = stdout
        self._lines = LineLog("stderr", app=app, room=room, pid=child.pid)
        self._stderr = PipeReader(child.stderr, poller=child.poller, on_chunk=self._lines.feed)

    @property
    def pid(self) -> int:
        """The pid of the process, and the number of its group."""
        return self._child.pid

    @property
    def ended(self) -> asyncio.Future[Exit]:
        """Done when the process has ended; its group may still have others. Never cancel it: use `wait_exit`."""
        return self._child.ended

    async def wait_exit(self) -> Exit:
        """Wait until the process has ended."""
        return await self._child.wait_exit()

    async def stop(self, *, signal: int, timeout: float, wait_drained: Callable[[], Awaitable[None]]) -> Exit:
        """Stop the process as `Backend.stop` says. `wait_drained` waits until all output was delivered."""
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
        return replace(await self._child.wait_exit(), last_line=self._lines.last_line)

    def kill(self) -> None:
        """Kill and release the group without waiting, and close the pipes. Calls may repeat."""
        self._child.release()
        self.stdin.abort()
        self.stdout.finish()
        self._stderr.finish()
        self._lines.finish()

    async def wait_gone(self) -> None:
        """Wait until the whole killed group is reaped."""
        await self._child.wait_released()

    async def _wait_over(self, wait_drained: Callable[[], Awaitable[None]]) -> None:
        """Wait until the process has ended and all its output was delivered.

        Does not wait for output once the whole group was killed elsewhere, as on the second request to end the server: a
        process that left the group may hold the pipe open without end.
        """
        await self._child.wait_exit()
        waits = [asyncio.ensure_future(waited) for waited in (wait_drained(), self._child.wait_gone())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


async def is_over(waited: Awaitable[object], timeout: float) -> bool:
    """Await something for at most `timeout` seconds; False if it did not finish."""
    # Not asyncio.timeout: in a task that was cancelled and is shielded, Python before 3.11.3 confuses its end with the cancel.
    with anyio.move_on_after(timeout):
        await waited
        return True
    return False
