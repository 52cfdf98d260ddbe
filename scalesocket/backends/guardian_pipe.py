"""The gateway's end of the pipe by which a guardian notices that gateway and spawner are gone (guardian.py)."""

import os
import signal
from contextlib import suppress


class GuardianPipe:
    """A pipe for one spawner and its guardian. The write end stays open in the gateway until `cut`."""

    def __init__(self) -> None:
        """Raises OSError if no descriptor is left."""
        self.guardian = 0
        """The pid of the guardian as the spawner reported it last; 0 if it has none."""
        self._read_end, self._write_end = os.pipe()

    @property
    def ends(self) -> tuple[int, int]:
        """What the spawner inherits."""
        return self._read_end, self._write_end

    def close_read_end(self) -> None:
        """Leave the read end to the spawner and the guardian. Calls may repeat."""
        if self._read_end >= 0:
            os.close(self._read_end)
            self._read_end = -1

    def cut(self) -> None:
        """Close the pipe of a spawner that is gone, and end its guardian, which is the gateway's child by then."""
        with suppress(ChildProcessError):  # there is none, or it was reaped
            if self.guardian and os.waitid(os.P_PID, self.guardian, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                os.kill(self.guardian, signal.SIGKILL)
            if self.guardian:
                os.waitpid(self.guardian, 0)
        self.close_read_end()
        os.close(self._write_end)
