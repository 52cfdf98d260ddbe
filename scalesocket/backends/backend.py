"""The interface between a room and its backend."""

from collections.abc import Sequence
from dataclasses import dataclass
from signal import Signals
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a backend ended. Exactly one of `status` and `signal` is set for a process; neither for a connection."""

    status: int | None = None
    signal: int | None = None
    error: str | None = None
    """For a connection: why it broke; None when the target closed it cleanly."""

    @property
    def is_success(self) -> bool:
        """True for exit status 0 and for a connection the target closed cleanly."""
        return self.status in (None, 0) and self.signal is None and self.error is None

    @property
    def label(self) -> str:
        """A short word for metrics: `0`, `3`, `SIGKILL`, `closed` or `lost`."""
        if self.status is not None:
            return str(self.status)
        if self.signal is not None:
            return signal_name(self.signal)
        return "closed" if self.error is None else "lost"

    def __str__(self) -> str:
        """A sentence for the close reason and the log."""
        if self.status is not None:
            return f"the program ended with exit status {self.status}"
        if self.signal is not None:
            return f"the program was killed by {signal_name(self.signal)}"
        return "the target closed the connection" if self.error is None else f"the connection to the target broke: {self.error}"


def signal_name(number: int) -> str:
    """`SIGTERM` for 15; `signal 64` for a number without a name."""
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


class Receiver(Protocol):
    """What a backend tells the room that opened it. All calls come from the event loop's thread, none before it was opened."""

    def backend_output(self, chunk: bytes) -> None:
        """One read of the backend's output, in order; never empty."""

    def backend_blocked(self) -> None:
        """Unsent input passed the high-water mark: stop giving more."""

    def backend_unblocked(self) -> None:
        """Unsent input fell below the low-water mark, or will never be taken and was discarded."""


class Backend(Protocol):
    """The other side of a room: opened, running, to be stopped exactly once.

    A room waits for the exit, then for the drain with a deadline, then stops the backend, which is then quick; or it
    stops a backend that still runs.
    """

    @property
    def pid(self) -> int | None:
        """The process, or None for a connection to a target."""

    @property
    def unsent(self) -> int:
        """Bytes of input the backend has not taken yet (0 after its input is gone)."""

    @property
    def output(self) -> tuple[int, int]:
        """Bytes of output that were read, and bytes that wait to be read now."""

    def write(self, records: bytes) -> bool:
        """Queue input. Never raises: returns False if it was discarded, because the backend ended or closed its input."""

    def reclaim(self) -> Sequence[bytes]:
        """Take back the writes that were queued and that the backend has not begun to take; for when it takes no more."""

    def pause_reading(self) -> None:
        """Stop reading output, so that the backend blocks. Calls may repeat."""

    def resume_reading(self) -> None:
        """Read output again. Calls may repeat."""

    async def wait_exit(self) -> Exit:
        """Wait until the process that was started is gone, or the connection to the target is closed.

        Output may still come: from the pipe, and from processes it left behind.
        """

    async def wait_drained(self) -> None:
        """Wait until all output was given to the receiver: nobody is left who could write more.

        Never returns while reading is paused, nor while a process that was left behind holds the output open.
        """

    async def stop(self, *, signal: int, timeout: float) -> Exit:
        """Climb the stop ladder: end input, after at most 500 ms `signal` to the group, after `timeout` seconds SIGKILL.

        Output that still comes is given to the receiver, for as long as it does not pause reading. Returns when every
        process of the group is gone and reaped. A backend whose exit was seen before is not waited for: what is left
        of its group is killed at once. If cancelled, the group is killed at once.
        """
