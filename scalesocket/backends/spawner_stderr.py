"""Logs the standard error of the spawner: a traceback, which is written line by line, becomes one event."""

import asyncio
import os
from typing import Final

import structlog

log = structlog.get_logger()

QUIET: Final = 0.2
"""Seconds without another line after which the lines so far are logged."""
MAX_TEXT: Final = 64 * 1024
"""Bytes of one event; more is dropped."""


class SpawnerStderr:
    """The read end of the pipe. The spawner does not write to the log itself: a slow reader of the log would block it."""

    def __init__(self, fd: int, pid: int) -> None:
        """Own the non-blocking `fd`. `pid`: the spawner's, for the log."""
        self._fd = fd
        self._pid = pid
        self._text = b""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read and log from now on."""
        self._loop = loop
        loop.add_reader(self._fd, self._readable)

    def unwatch(self) -> None:
        """Log the rest, and read no more."""
        self._read()
        self._log()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self._loop = None

    def close(self) -> None:
        """Log the rest, and close the pipe."""
        self.unwatch()
        os.close(self._fd)

    def _readable(self) -> None:
        assert self._loop is not None
        if not self._read():
            self._loop.remove_reader(self._fd)
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(QUIET, self._log)

    def _read(self) -> bool:
        """Read what is available; False at the end of file."""
        try:
            text = os.read(self._fd, MAX_TEXT)
        except BlockingIOError:
            return True
        self._text += text[: MAX_TEXT - len(self._text)]
        return bool(text)

    def _log(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        text, self._text = self._text, b""
        if text:
            log.error("spawner failed", pid=self._pid, exception=text.decode(errors="replace").rstrip())
