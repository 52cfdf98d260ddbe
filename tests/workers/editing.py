"""A site file that several workers serve, and that a test edits."""

import contextlib
import http.client
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from websockets.sync.client import ClientConnection, connect

from scalesocket.control.address import control_paths
from scalesocket.control.client import send_request
from scalesocket.control.messages import Diff, Reload, ReloadReport, Status
from scalesocket.status import SiteStatus
from tests.cli.serving import DEADLINE, Serving, serving
from tests.workers.serving import wait_none

COUNT: Final = 3
ROOMS: Final = [f"room{number}" for number in range(24)]
"""Rooms over all workers: one of three has none of them in one of 5,000 runs."""
SERVER: Final = '[server]\nworkers = 3\nbind = "127.0.0.1:0"\ndrain_timeout = "0s"\n'
CHAT: Final = '[apps.chat]\ncommand = ["cat"]\n'
NEW: Final = '[apps.new]\ncommand = ["cat"]\n'
QUICK: Final = (
    "import sys, scalesocket.reload.watch as watch; watch.SETTLE = 0.01; {more}\n"
    "from scalesocket.cli.main import main; main(sys.argv[4:])"
)
"""A program that serves, and takes a file as written at once. `serving` appends `python -m scalesocket` and the words."""


class Editing:
    """A running server, and its file."""

    def __init__(self, file: Path, server: Serving, connections: ExitStack) -> None:
        self.file = file
        self.server = server
        self.port = server.port
        self._connections = connections

    @property
    def status(self) -> SiteStatus:
        return send_request(control_paths("auto", self.file), Status(), SiteStatus, timeout=DEADLINE)

    @property
    def pids(self) -> list[int]:
        """Of the workers; 0 for one that is being replaced."""
        return [worker.pid or 0 for worker in self.status.workers]

    def reload(self, text: str | None = None, *, dry_run: bool = False, restart: str | None = None) -> ReloadReport:
        """Edit the file, and apply it. Raises ControlError if it is refused."""
        if text is not None:
            self.file.write_text(text)
        request = Reload(dry_run=dry_run, restart=restart)
        return send_request(control_paths("auto", self.file), request, ReloadReport, timeout=DEADLINE)

    def diff(self, text: str) -> ReloadReport:
        self.file.write_text(text)
        return send_request(control_paths("auto", self.file), Diff(), ReloadReport, timeout=DEADLINE)

    def join(self, path: str) -> ClientConnection:
        url = f"ws://127.0.0.1:{self.port}{path}"
        return self._connections.enter_context(connect(url, open_timeout=DEADLINE, compression=None))

    def echo_in_all(self, app: str) -> None:
        """Send a message in rooms of every worker, and wait for it."""
        for room in ROOMS:
            client = self.join(f"/{app}/{room}")
            client.send(room)
            assert client.recv(timeout=DEADLINE) == room
            client.close()

    def get(self, path: str) -> tuple[int, dict[str, object]]:
        """The status and the JSON of a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def wait_replaced(self, index: int, pid: int) -> None:
        """Wait until another process of a worker serves."""

        def is_replaced() -> bool:
            worker = self.status.workers[index]
            return worker.state == "serving" and worker.pid not in (None, pid)

        self.server.wait(is_replaced, f"another process of worker {index}")


@contextmanager
def editing(
    folder: Path, text: str, *, more: str = "", environment: dict[str, str] | None = None, words: Sequence[str] = ("--no-watch",)
) -> Iterator[Editing]:
    """Serve a site file. Without `--no-watch` in `words`, edits are applied as they are made.

    `more`: statements that the supervisor runs first.
    """
    file = folder / "site.toml"
    file.write_text(text)
    wrapper = (sys.executable, "-c", QUICK.format(more=more))
    with (
        serving("serve", *words, str(file), wrapper=wrapper, environment=environment) as server,
        ExitStack() as connections,
    ):
        edited = Editing(file, server, connections)
        pids = {server.process.pid, *edited.pids}
        yield edited
        if server.process.poll() is None:
            server.process.terminate()
        server.wait_ended()
        wait_none(pids)
