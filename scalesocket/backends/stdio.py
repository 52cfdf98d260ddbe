"""A backend that is a process on its standard input and output."""

from scalesocket.backends.backend import Exit, Receiver
from scalesocket.backends.child import Child
from scalesocket.backends.process import Process
from scalesocket.io.pipes import PipeReader, PipeWriter


class StdioBackend:
    """Input goes to the process's standard input; its standard output comes from it."""

    __slots__ = ("_process", "_stdin", "_stdout", "write")

    def __init__(self, child: Child, receiver: Receiver, *, app: str, room: str) -> None:
        """Take `child` over and read its output from now on."""
        self._stdin = PipeWriter(
            child.stdin, poller=child.poller, on_blocked=receiver.backend_blocked, on_unblocked=receiver.backend_unblocked
        )
        self._stdout = PipeReader(child.stdout, poller=child.poller, on_chunk=receiver.backend_output)
        self.write = self._stdin.write  # not a method, which would cost each message a call
        self._process = Process(child, self._stdin, self._stdout, app=app, room=room)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def unsent(self) -> int:
        """Bytes of input the process has not taken yet."""
        return self._stdin.unsent

    @property
    def output(self) -> tuple[int, int]:
        """Bytes of output that were read, and those in the pipe."""
        return self._stdout.taken, self._stdout.unread

    def reclaim(self) -> list[bytes]:
        """Take back input that the process has not begun to take."""
        return self._stdin.reclaim()

    def pause_reading(self) -> None:
        """Stop reading output, so that the process blocks."""
        self._stdout.pause()

    def resume_reading(self) -> None:
        """Read output again."""
        self._stdout.resume()

    async def wait_exit(self) -> Exit:
        """Wait until the process is gone."""
        return await self._process.wait_exit()

    async def wait_drained(self) -> None:
        """Wait for the end of the output."""
        await self._stdout.is_drained.wait()

    async def stop(self, *, signal: int, timeout: float) -> Exit:
        """Climb the stop ladder."""
        return await self._process.stop(signal=signal, timeout=timeout, wait_drained=self.wait_drained)
