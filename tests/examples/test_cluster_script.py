"""`examples/cluster/run.py`, which `make cluster` runs: engine, nodes and load balancer start and end together."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from websockets.sync.client import connect

from scalesocket.config.load import load_site
from tests.cluster.engines import SERVER
from tests.ports import free_port
from tests.workers.serving import descendants, wait_none

FOLDER: Final = Path(__file__).parents[2] / "examples" / "cluster"
DEADLINE: Final = 30.0


def start(balancer: str) -> "subprocess.Popen[str]":
    if SERVER is None:
        pytest.skip("no redis-server or valkey-server on this machine (Debian: apt-get install redis-server)")
    if shutil.which(balancer, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin") is None:
        pytest.skip(f"no {balancer} on this machine (Debian: apt-get install {balancer})")
    return subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, FOLDER / "run.py"],
        env={**os.environ, "BALANCER": balancer, "BIND": f"127.0.0.1:{free_port()}", "LEASE": "2s"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.timeout(60)
@pytest.mark.parametrize("balancer", ["haproxy", "nginx"])
def test_clients_of_different_nodes_and_of_the_load_balancer_meet_and_ctrl_c_ends_everything(balancer: str) -> None:
    with start(balancer) as script:
        assert script.stdout is not None
        lines = []
        try:
            while not (lines and lines[-1].startswith("Ctrl-C ends")):
                lines.append(script.stdout.readline())
                assert lines[-1], "".join(lines)
            addresses = re.findall(r"^    http://([\d.]+:\d+)/ +(?:node|all rooms)", "".join(lines), re.MULTILINE)
            assert f"with {balancer} as load balancer" in "".join(lines)
            family = descendants(script.pid)

            found = []
            with ExitStack() as clients:
                for address in addresses:
                    client = clients.enter_context(connect(f"ws://{address}/where/lobby", proxy=None, open_timeout=DEADLINE))
                    found.append(str(client.recv(timeout=DEADLINE)))

            about = found[0].rpartition(" ")[0]
            assert found == [f"{about} {number}" for number in range(1, 5)]
        finally:
            script.send_signal(signal.SIGINT)
        assert script.stdout.read().endswith("ended\n")
        assert script.wait(DEADLINE) == 0
    wait_none(family)


@pytest.mark.parametrize(
    ("balancer", "missing", "words"),
    [("", "redis-server", "neither redis-server nor valkey-server"), ("", "haproxy", "neither haproxy nor nginx")]
    + [(name, name, f"no {name}") for name in ("haproxy", "nginx")],
)
def test_a_missing_program_is_named_with_its_package(balancer: str, missing: str, words: str, tmp_path: Path) -> None:
    for name in ("redis-server", "haproxy"):
        if name != missing:
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)
    code = (
        "import os, shutil, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import run\n"
        f"shutil.which = lambda name, path: name if os.path.exists('{tmp_path}/' + name) else None\n"
        "run.main()"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, FOLDER],
        env={**os.environ, "BALANCER": balancer},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )

    assert done.returncode == 1
    assert f"make cluster: found {words} (" in done.stderr
    assert f"apt-get install {missing}" in done.stderr


def test_the_site_file_loads() -> None:
    site = load_site(FOLDER / "site.toml")

    assert set(site.apps) == {"where", "chat", "whiteboard"}
    assert site.cluster is not None
