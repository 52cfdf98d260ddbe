"""The backend that is a process on standard input and output."""

from scalesocket.backends.backend import Exit, Receiver
from scalesocket.backends.child import Child
from scalesocket.backends.process import Process
from scalesocket.io.pipes import PipeReader, PipeWriter


class StdioBackend:
    """A process that reads the input of the room on standard input and writes its output to standard output."""

    __slots__ = ("_process", "_stdin", "_stdout", "write")

    def __init__(self, child: Child, receiver: Receiver, *, app: str, room: str) -> None:
        """Own `child` and read its output from now on."""
        self._stdin = PipeWriter(
            child.stdin, poller=child.poller, on_blocked=receiver.backend_blocked, on_unblocked=receiver.backend_unblocked
        )
        self._stdout = PipeReader(child.stdout, poller=child.poller, on_chunk=receiver.backend_output)
        self.write = self._stdin.write  # not a method, which would cost each message a call
        self._process = Process(child, self._stdin, self._stdout, app=app, room=room)

    @property
    def pid(self) -> int:
        """The pid of the process."""
        return self._process.pid

    @property
    def unsent(self) -> int:
        """Bytes of input that the process has not read yet."""
        return self._stdin.unsent

    @property
    def output(self) -> tuple[int, int]:
        """Bytes of output read so far, and those in the pipe."""
        return self._stdout.taken, self._stdout.unread

    def reclaim(self) -> list[bytes]:
        """Remove and return the queued writes of which the process has read nothing."""
        return self._stdin.reclaim()

    def pause_reading(self) -> None:
        """Stop reading output, so that the process blocks when it writes."""
        self._stdout.pause()

    def resume_reading(self) -> None:
        """Read output again."""
        self._stdout.resume()

    async def wait_exit(self) -> Exit:
        """Wait until the process has ended."""
        return await self._process.wait_exit()

    async def wait_drained(self) -> None:
        """Wait for the end of the output."""
        await self._stdout.is_drained.wait()

    async def stop(self, *, signal: int, timeout: float) -> Exit:
        """Stop the process; see `Backend.stop`."""
        return await self._process.stop(signal=signal, timeout=timeout, wait_drained=self.wait_drained)
