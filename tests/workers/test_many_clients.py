"""Ten thousand clients of a server of three workers."""

import shutil
from pathlib import Path

import pytest

from benchmarks.generator import run_drive
from tests.cli.serving import serving

ROOMS = 500
CLIENTS = 20
"""In each room."""
MEMORY = 6 * 1024
"""Bytes of a client in all workers together, with its part of a room; 2,000 were measured."""

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler"),
]


def test_ten_thousand_clients_in_three_workers_get_everything(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(
        '[server]\nbind = "127.0.0.1:0"\nworkers = 3\ncontrol = "off"\nmax_connections = 10_000\n[apps.chat]\ncommand = ["cat"]\n'
    )
    words = f"--rooms {ROOMS} --clients {CLIENTS} --senders {CLIENTS} --in-flight 1 --seconds 3 --warm 0.5 --concurrency 200"
    with serving("serve", str(file)) as server:
        url = f"ws://127.0.0.1:{server.port}/chat/room{{}}"

        drive = run_drive(url, [*words.split(), "--sources", "4"], pid=server.process.pid, levels=3)

    traffic, memory = drive.traffic, drive.arrival.settled
    assert traffic is not None
    assert drive.arrival.clients == ROOMS * CLIENTS
    assert traffic.expected_in_all >= ROOMS * CLIENTS * CLIENTS  # each client has sent, and is heard by its room
    assert (traffic.lost, traffic.reordered, traffic.duplicated, traffic.corrupt, traffic.closed) == (0, 0, 0, 0, 0)
    assert (memory.server_rss - memory.server_rss_before) / (ROOMS * CLIENTS) < MEMORY
