"""The gateway's end of the pipe by which a guardian notices that gateway and spawner have ended (spawner/guardian.py)."""

import os
import signal
from contextlib import suppress

from scalesocket.backends.spawner.protocol import STAND_DOWN, STAY_SILENT


class GuardianPipe:
    """The pipe of one spawner and its guardian. The gateway holds the write end until `end_guardian`."""

    def __init__(self) -> None:
        """Raises OSError if no descriptor is left."""
        self.guardian = 0
        """The pid of the guardian as the spawner reported it last; 0 if there is none."""
        self._read_end, self._write_end = os.pipe()

    @property
    def ends(self) -> tuple[int, int]:
        """The read end and the write end, for the spawner to inherit."""
        return self._read_end, self._write_end

    def close_read_end(self) -> None:
        """Leave the read end to the spawner and the guardian. Calls may repeat."""
        if self._read_end >= 0:
            os.close(self._read_end)
            self._read_end = -1

    def silence(self) -> None:
        """Have the guardian send no last word."""
        with suppress(BrokenPipeError):  # there is none
            os.write(self._write_end, STAY_SILENT)

    def end_guardian(self) -> None:
        """Kill and reap the guardian of a spawner that has ended, which is the gateway's child by then; close the pipe.

        A spawner killed between forking a guardian and reporting it leaves one that is unknown here. It reads STAND_DOWN, ends
        without killing anything, and is reaped with the orphans.
        """
        with suppress(BrokenPipeError):  # there is none
            os.write(self._write_end, STAND_DOWN)
        with suppress(ChildProcessError):  # there is none, or it was reaped
            if self.guardian and os.waitid(os.P_PID, self.guardian, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                os.kill(self.guardian, signal.SIGKILL)
            if self.guardian:
                os.waitpid(self.guardian, 0)
        self.close_read_end()
        os.close(self._write_end)
