"""A process a room started: its stop ladder, and what it says on stderr.

The log of stderr is written from the event loop's callbacks.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import structlog

from scalesocket.backends.backend import Exit
from scalesocket.backends.child import Child
from scalesocket.io.pipes import PipeReader, PipeWriter

GRACE: Final = 0.5
"""Seconds a process has, after its input ended, to go by itself before it is sent the stop signal."""
MAX_LINE: Final = 4096
"""Bytes of one line of the log; a longer one is cut in pieces."""
MAX_LINES: Final = 200
"""Lines of one stream that are logged in a second; the others are counted."""

log = structlog.get_logger()


class LineLog:
    """Writes what a process says to the log, line by line."""

    __slots__ = ("_count", "_event", "_keys", "_left_out", "_loop", "_rest", "_timer")

    def __init__(self, event: str, **keys: object) -> None:
        """Log each line as `event` ("stderr" or "stdout") with these keys."""
        self._loop = asyncio.get_running_loop()
        self._event = event
        self._keys = keys
        self._rest = b""
        """A line that has no end yet."""
        self._count = 0
        """Lines logged in the running second."""
        self._left_out = 0
        self._timer: asyncio.TimerHandle | None = None
        """Runs out with the second in which something was logged or left out."""

    def feed(self, chunk: bytes) -> None:
        """Log the lines that are complete, and those that are longer than MAX_LINE.

        Lines past MAX_LINES are counted without a look at each, so that a flood does not hold up the loop.
        """
        *lines, rest = (self._rest + chunk).split(b"\n", max(0, MAX_LINES - self._count))
        for line in lines:
            self._write(line)
        if skipped := rest.count(b"\n"):
            self._leave_out(skipped)
            rest = rest[rest.rindex(b"\n") + 1 :]
        whole = len(rest) - len(rest) % MAX_LINE
        self._write(rest[:whole])
        self._rest = rest[whole:]

    def finish(self) -> None:
        """Log the last line, if it had no end, and how many were left out. Calls may repeat."""
        self._write(self._rest)
        self._rest = b""
        if self._timer is not None:
            self._timer.cancel()
            self._new_second()

    def _write(self, line: bytes) -> None:
        """Log a line, in pieces if it is long; nothing for an empty one."""
        text = line.rstrip(b"\r")
        for start in range(0, len(text), MAX_LINE):
            if self._count >= MAX_LINES:
                self._leave_out(1)
                continue
            self._count += 1
            self._start_second()
            log.info(self._event, **self._keys, line=text[start : start + MAX_LINE].decode(errors="replace"))

    def _leave_out(self, count: int) -> None:
        self._left_out += count
        self._start_second()

    def _start_second(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(1.0, self._new_second)

    def _new_second(self) -> None:
        self._timer = None
        self._count = 0
        if self._left_out:
            log.warning("lines left out of the log", stream=self._event, **self._keys, count=self._left_out)
            self._left_out = 0


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
                        log.warning("backend did not stop, it is killed", **self._names, pid=self.pid, after=timeout)
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
