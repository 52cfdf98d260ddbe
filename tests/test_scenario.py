"""A site of four apps in a site file, served by the command, with the `websockets` client."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.cli.serving import Serving, serving
from tests.playing import PROGRAMS, is_alive

SITE = """
[server]
bind = "127.0.0.1:0"
control = "off"

[defaults]
stop_timeout = "1s"

[apps.chat]
command = ["cat"]
routing = "json"
history = {{ size = 3 }}

[apps.duel]
command = ["{python}", "{programs}/duel.py"]
routing = "json"
max_clients = 2

[apps.telnet]
command = ["{python}", "{programs}/tcp.py"]
port = "auto"

[apps.mud]
tcp = "127.0.0.1:{mud}"
idle_timeout = "30s"
"""


class Visitor:
    """A websocket with a synchronous client."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def say(self, message: object) -> None:
        self.connection.send(message if isinstance(message, str) else json.dumps(message))

    def listen(self) -> Any:
        text = str(self.connection.recv(timeout=10))
        return json.loads(text) if text.startswith("{") else text

    def wait_closed(self) -> tuple[int, str]:
        with suppress(ConnectionClosed):
            while True:
                self.connection.recv(timeout=10)
        assert self.connection.close_code is not None
        return self.connection.close_code, self.connection.close_reason or ""


@pytest.fixture
def mud() -> Iterator[int]:
    """The port of a TCP server that is there before the site is."""
    with subprocess.Popen([sys.executable, str(PROGRAMS / "listen.py")], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.kill()


@pytest.fixture
def site(tmp_path: Path, mud: int) -> Iterator[Serving]:
    (tmp_path / "site.toml").write_text(SITE.format(python=sys.executable, programs=PROGRAMS, mud=mud))
    with serving("serve", str(tmp_path / "site.toml")) as server:
        yield server


def test_four_apps_at_the_same_time(site: Serving) -> None:
    with ExitStack() as stack:

        def visit(path: str) -> Visitor:
            return Visitor(stack.enter_context(connect(f"ws://127.0.0.1:{site.port}{path}", proxy=None)))

        # Chat: everyone hears everyone, and a newcomer what was said last.
        ann = visit("/chat/lobby")
        assert ann.listen() == {"t": "Join", "_from": 1, "_event": "join"}
        bob = visit("/chat/lobby")
        assert bob.listen() == {"t": "Join", "_from": 1, "_event": "join"}
        assert ann.listen() == bob.listen() == {"t": "Join", "_from": 2, "_event": "join"}
        ann.say({"text": "hello"})
        assert ann.listen() == bob.listen() == {"_from": 1, "text": "hello"}
        eve = visit("/chat/lobby")
        assert [eve.listen() for _ in range(4)] == [
            {"t": "Join", "_from": 1, "_event": "join"},
            {"t": "Join", "_from": 2, "_event": "join"},
            {"_from": 1, "text": "hello"},
            {"t": "Join", "_from": 3, "_event": "join"},
        ]

        # The duel: the game speaks to one, to the others and to all, and shows a player out.
        red = visit("/duel/ring")
        assert red.listen() == {"t": "welcome", "_to": 4, "players": [4]}
        blue = visit("/duel/ring")
        assert red.listen() == {"t": "joined", "_except": 5, "player": 5}
        assert blue.listen() == {"t": "welcome", "_to": 5, "players": [4, 5]}
        assert visit("/duel/ring").wait_closed() == (1013, "the room is full")
        red.say({"number": 3})
        blue.say({"number": 8})
        assert red.listen() == blue.listen() == {"t": "won", "player": 5}
        red.say({"quit": True})
        assert red.wait_closed() == (4000, "good game")

        # A program that was told its port, and a server that was there before: each room is a connection.
        for app in ("telnet", "mud"):
            one, two = visit(f"/{app}/one"), visit(f"/{app}/two")
            assert one.listen() == two.listen() == "hello"
            one.say("only here")
            assert one.listen() == "only here"
            two.say("only there")
            assert two.listen() == "only there"

        # All of it can be seen.
        apps = {app["name"]: app for app in get(site, "/api/apps/")["apps"]}
        assert {name: app["connections"] for name, app in apps.items()} == {"chat": 3, "duel": 1, "telnet": 2, "mud": 2}
        assert get(site, "/duel/api/ring/metadata") == {"players": 1}

        # And all of it ends well.
        pids = children_of(site.process.pid)
        assert len(pids) >= 4
        site.send_signal(signal.SIGTERM)
        for visitor in (ann, bob, eve, blue):
            assert visitor.wait_closed() == (1001, "the server is shutting down")
    assert site.wait_ended() == 0
    assert not any(map(is_alive, pids))


def get(site: Serving, path: str) -> Any:
    return httpx.get(f"http://127.0.0.1:{site.port}{path}", trust_env=False).json()


def children_of(pid: int) -> list[int]:
    """All processes that descend from this one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            child = int(stat.parent.name)
            found += [child, *children_of(child)]
    return found
