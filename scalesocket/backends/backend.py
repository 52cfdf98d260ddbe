"""The interface between a room and its backend."""

from collections.abc import Sequence
from dataclasses import dataclass
from signal import Signals
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a backend ended. For a process exactly one of `status` and `signal` is set, for a connection neither."""

    status: int | None = None
    signal: int | None = None
    error: str | None = None
    """For a connection: why it broke; None when the target closed it cleanly."""
    last_line: str | None = None
    """For a process that was stopped: the last line of its standard error, cut to 200 characters."""

    @property
    def is_success(self) -> bool:
        """True for exit status 0 and for a connection the target closed cleanly."""
        return self.status in (None, 0) and self.signal is None and self.error is None

    @property
    def label(self) -> str:
        """The label of metrics: `0`, `3`, `SIGKILL`, `closed` or `lost`."""
        if self.status is not None:
            return str(self.status)
        if self.signal is not None:
            return signal_name(self.signal)
        return "closed" if self.error is None else "lost"

    def __str__(self) -> str:
        """The text for close reasons and the log."""
        if self.status is not None:
            return f"the program ended with exit status {self.status}"
        if self.signal is not None:
            return f"the program was killed by {signal_name(self.signal)}"
        return "the target closed the connection" if self.error is None else f"the connection to the target broke: {self.error}"


def signal_name(number: int) -> str:
    """Name a signal: `SIGTERM` for 15; `signal 64` for a number without a name."""
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


class Receiver(Protocol):
    """The callbacks of a backend, to the room that opened it: from the event loop's thread, and none before it is open."""

    def backend_output(self, chunk: bytes) -> None:
        """Receive the output of one read, in order; never empty."""

    def backend_blocked(self) -> None:
        """Stop writing: unsent input passed the high-water mark."""

    def backend_unblocked(self) -> None:
        """Write again: unsent input fell below the low-water mark, or was discarded."""


class Backend(Protocol):
    """The backend of a room, from its opening until it is stopped, which must happen exactly once.

    A room stops a running backend; or it waits for the exit, then for the end of the output with a deadline, and stops the
    backend after that.
    """

    @property
    def pid(self) -> int | None:
        """The pid of the process; None for a connection to a target."""

    @property
    def unsent(self) -> int:
        """Bytes of input that the backend has not read yet; 0 once its input is closed."""

    @property
    def output(self) -> tuple[int, int]:
        """Bytes of output read so far, and bytes that can be read now."""

    def write(self, records: bytes) -> bool:
        """Queue input; False if it is discarded, because the backend ended or closed its input. Never raises."""

    def reclaim(self) -> Sequence[bytes]:
        """Remove and return the queued writes of which the backend has read nothing; for one that reads no more."""

    def pause_reading(self) -> None:
        """Stop reading output, so that the backend blocks when it writes. Calls may repeat."""

    def resume_reading(self) -> None:
        """Read output again. Calls may repeat."""

    async def wait_exit(self) -> Exit:
        """Wait until the process has ended, or the connection to the target is closed.

        More output may follow: from the pipe, and from processes that it left behind.
        """

    async def wait_drained(self) -> None:
        """Wait until the receiver got all output and no process is left that could write more.

        Never returns while reading is paused, or while a process that was left behind holds the output open.
        """

    async def stop(self, *, signal: int, timeout: float) -> Exit:
        """End the input, after at most 500 ms send `signal` to the group, and after `timeout` seconds SIGKILL.

        The receiver gets the rest of the output unless it pauses reading. Returns when every process of the group is
        reaped. If the process has already ended, the rest of its group is killed at once. If cancelled, the group is
        killed at once.
        """
