"""Which servers, and which machines, support loads over TLS."""

import sys
from pathlib import Path
from typing import Final

import pytest

from benchmarks import generator
from benchmarks.generator import find_no_tls
from benchmarks.loads import LOADS
from benchmarks.peers import PEERS, PLAIN, TLS, Peer, Place
from benchmarks.programs.behind_tls import PROXIES
from benchmarks.servers import open_server

COMMANDS = {peer.name: peer.make_command for peer in PEERS}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(port=4443, folder=tmp_path)


def test_every_server_of_a_load_over_tls_supports_tls(place: Place) -> None:
    loads = [load for load in LOADS if load.setup.is_tls]

    commands = {peer: COMMANDS[peer](load.setup, place) for load in loads for peer in load.peers}

    assert {"ours", "node", "rust-nginx", "rust-haproxy"} <= set(commands)
    assert None not in commands.values()


@pytest.mark.parametrize("proxy", PROXIES)
def test_the_original_is_behind_a_proxy_only_with_tls(place: Place, proxy: str) -> None:
    make_command = COMMANDS[f"rust-{proxy}"]

    command = make_command(TLS, place)

    assert make_command(PLAIN, place) is None
    assert command is not None
    assert command[0] == sys.executable
    assert command[2:6] == [proxy, "4443", str(place.certificate), str(place.key)]
    inner = command[6]
    assert command[command.index("scalesocket-rust") :] == ["scalesocket-rust", "--addr", f"127.0.0.1:{inner}", "cat", "--"]


def test_a_machine_without_a_library_for_tls_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "TLS_LIBRARIES", ("libnone.so.1",))

    assert find_no_tls() in {"none of libnone.so.1 found", "no openssl command to make a certificate with"}


def test_both_sizes_of_this_server_serve_the_same_site(place: Place) -> None:
    texts = {}
    for name in ("ours", "ours-2"):
        command = COMMANDS[name](PLAIN, place)
        assert command is not None
        texts[name] = Path(command[-1]).read_text()

    assert texts["ours-2"].replace("workers = 2\n", "") == texts["ours"]
    assert texts["ours-2"] != texts["ours"]


LATE: Final = """
import socket, subprocess, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(0.3)
child = subprocess.Popen(["sleep", "60"])
print("it serves", flush=True)
child.wait()
"""


def test_a_server_that_listens_before_it_is_ready_is_waited_for() -> None:
    peer = Peer(
        name="late",
        title="a late server",
        hint="",
        find_version=lambda: "1",
        make_command=lambda _, place: [sys.executable, "-c", LATE, str(place.port)],
        ready="serves",
    )

    with open_server(peer, PLAIN) as server:
        helpers = server.helpers

    assert helpers == 1
