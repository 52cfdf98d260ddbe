"""A spawner that is killed right after it forked its guardian number FATAL_GUARDIAN, before it can report it."""

import os
import signal
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

from scalesocket.backends.spawner import guardian_process, main
from scalesocket.backends.spawner.guardian import fork_guardian

FATAL = int(os.environ["FATAL_GUARDIAN"])
forked = 0


def fork_and_die(*arguments: object) -> int:
    global forked
    forked += 1
    pid = fork_guardian(*arguments)  # type: ignore[arg-type]
    if forked == FATAL:
        os.kill(os.getpid(), signal.SIGKILL)
    return pid


guardian_process.fork_guardian = fork_and_die  # type: ignore[assignment]
main.main()
