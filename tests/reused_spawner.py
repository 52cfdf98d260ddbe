"""Spawner processes that serve one test after the other: to start one takes longer than most tests."""

import resource
from typing import ClassVar

from scalesocket.backends.spawner.protocol import MAX_REPORT, decode, encode
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.backends.spawner_process import SpawnerProcess


class ReusedSpawner(SpawnerClient):
    """The spawner of one test. The next test gets its process, unless a deadline was set, it died, or it has more to report."""

    idle: ClassVar[dict[int, SpawnerProcess]] = {}
    """By the limit of open files that their children get."""

    def start(self) -> None:
        self._soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._process = self.idle.pop(self._soft_limit, None)
        if self._process is not None and not is_ready(self._process):
            self._process.end()
            self._process = None
        if self._process is None:
            super().start()
        self._reusable = self._process

    def set_deadline(self, boottime: float | None, last_word: dict[str, object] | None = None) -> None:
        self._reusable = None
        super().set_deadline(boottime, last_word)

    def close(self) -> None:
        process = self._process
        if process is not None and process is self._reusable and not self.groups and is_ready(process):
            process.unwatch()
            self._process = None
            if (other := self.idle.pop(self._soft_limit, None)) is not None:
                other.end()
            self.idle[self._soft_limit] = process
        super().close()


def is_ready(process: SpawnerProcess) -> bool:
    """Whether a spawner runs, has nothing left to report and answers soon."""
    if process.is_blocked:
        return False
    process._socket.settimeout(1.0)
    try:
        process._socket.send(encode({"do": "confirm watch"}))
        packet = process._socket.recv(MAX_REPORT)
    except OSError:
        return False
    finally:
        process._socket.setblocking(False)
    return bool(packet) and decode(packet) == {"watching": process.pid}
