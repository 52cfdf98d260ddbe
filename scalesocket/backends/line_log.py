"""The log of what a process writes to standard output or error: bounded lines, and a bounded number of them in a second."""

import asyncio
from typing import Final

import structlog

MAX_LINE: Final = 4096
"""Bytes of one line of the log; a longer one is cut into pieces."""
LAST_LINE: Final = 200
"""Characters of the last line that are kept."""
MAX_LINES: Final = 200
"""Lines of one stream that are logged in a second; the others are counted."""

log = structlog.get_logger()


class LineLog:
    """Logs one output stream of a process, line by line."""

    __slots__ = ("_count", "_event", "_keys", "_last", "_left_out", "_loop", "_rest", "_timer")

    def __init__(self, event: str, **keys: object) -> None:
        """Log each line as `event` ("stderr" or "stdout") with these keys."""
        self._loop = asyncio.get_running_loop()
        self._event = event
        self._keys = keys
        self._rest = b""
        """The beginning of a line that is not complete."""
        self._count = 0
        """Lines logged in this second."""
        self._left_out = 0
        self._last = b""
        """The last line that is not empty, or its beginning."""
        self._timer: asyncio.TimerHandle | None = None
        """Runs until the end of the second in which a line was logged or left out."""

    @property
    def last_line(self) -> str | None:
        """The last line that is not empty, cut to LAST_LINE characters; also one that was not logged. None if there was none."""
        text = self._last.decode(errors="replace").strip()[:LAST_LINE]
        return text or None

    def feed(self, chunk: bytes) -> None:
        """Log the complete lines of a chunk, and those that are longer than MAX_LINE.

        Lines past MAX_LINES are only counted, so that a flood does not block the event loop.
        """
        *lines, rest = (self._rest + chunk).split(b"\n", max(0, MAX_LINES - self._count))
        for line in lines:
            self._write(line)
        if skipped := rest.count(b"\n"):
            self._leave_out(skipped)
            end = rest.rindex(b"\n")
            self._keep(rest[rest.rfind(b"\n", 0, end) + 1 : end])
            rest = rest[end + 1 :]
        whole = len(rest) - len(rest) % MAX_LINE
        self._write(rest[:whole])
        self._rest = rest[whole:]

    def finish(self) -> None:
        """Log the last line, complete or not, and how many were left out. Calls may repeat."""
        self._write(self._rest)
        self._rest = b""
        if self._timer is not None:
            self._timer.cancel()
            self._end_second()

    def _write(self, line: bytes) -> None:
        """Log a line, in pieces if it is long; nothing for an empty one."""
        text = line.rstrip(b"\r")
        self._keep(text)
        for start in range(0, len(text), MAX_LINE):
            if self._count >= MAX_LINES:
                self._leave_out(1)
                continue
            self._count += 1
            self._start_timer()
            log.info(self._event, **self._keys, line=text[start : start + MAX_LINE].decode(errors="replace"))

    def _keep(self, line: bytes) -> None:
        """Keep the beginning of a line as the last one."""
        if line and not line.isspace():
            self._last = line[: 4 * LAST_LINE]  # no character takes more than 4 bytes

    def _leave_out(self, count: int) -> None:
        self._left_out += count
        self._start_timer()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(1.0, self._end_second)

    def _end_second(self) -> None:
        self._timer = None
        self._count = 0
        if self._left_out:
            log.warning("log lines dropped", stream=self._event, **self._keys, count=self._left_out)
            self._left_out = 0
