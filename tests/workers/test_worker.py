"""A worker process and what it is given."""

import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from scalesocket.config.load import load_site
from scalesocket.open_files import warn_of_few_files
from scalesocket.server.addresses import Address
from scalesocket.workers.backoff import LONGEST_DELAY, WINDOW, Backoff
from scalesocket.workers.setup import Setup, read_setup, write_setup
from scalesocket.workers.supervisor import count_files_of_worker, count_workers
from tests.workers.serving import wait_none

ORPHAN = """
import os, sys, scalesocket.workers.worker as worker
worker.ORPHAN_TIMEOUT = 0.2
worker.end_after(worker.open_parent(os.getppid()))
print(os.getpid(), flush=True)
while {busy}:
    pass
import signal
signal.pause()
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_a_setup_is_read_as_written_and_no_child_inherits_its_descriptors(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('[server]\nworkers = 2\n[apps.chat]\ncommand = ["cat"]\nroom_pattern = "[a-z]+"\n')
    address = Address(socket.AF_INET, ("127.0.0.1", 9000))
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as link, socket.socket() as inbox:
        for sock in (listener, link, inbox):
            sock.set_inheritable(True)
        setup = Setup(
            index=1,
            count=2,
            key=b"key",
            supervisor=1,
            site=load_site(file),
            generation=3,
            loop="uvloop",
            open_files=1024,
            link=link.fileno(),
            listeners=[(address, listener.fileno())],
            pair=None,
            auth_files={},
            inbox=inbox.fileno(),
            outboxes=[],
        )
        fd = write_setup(setup)

        assert read_setup(fd) == setup

        assert not any(map(os.get_inheritable, setup.descriptors))
        assert os.read(fd, 1) == b""
        os.close(fd)


@pytest.mark.parametrize("state", ["busy", "idle", "stopped"])
def test_a_worker_ends_after_its_supervisor_even_if_its_loop_is_stuck(state: str) -> None:
    script = ORPHAN.format(busy=state == "busy")
    with subprocess.Popen([sys.executable, "-c", PARENT, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if state == "stopped":
            os.kill(pid, signal.SIGSTOP)

        parent.kill()

        wait_none({pid})


def test_restarts_come_later_if_they_repeat_but_never_end() -> None:
    backoff = Backoff()
    delays = [backoff.next_delay(0.0) for _ in range(100)]

    assert 0.05 <= delays[0] <= 0.1
    assert all(0.05 * 2**number <= delay <= 0.1 * 2**number for number, delay in enumerate(delays[:6]))
    assert max(delays) <= LONGEST_DELAY
    assert backoff.next_delay(WINDOW) <= 0.1


@pytest.mark.parametrize(("tls", "needed"), [("", 500), ('tls = { certificate = "cert.pem", key = "key.pem" }\n', 1000)])
def test_the_limit_of_open_files_must_be_enough_for_a_worker_that_has_all_clients(
    tls: str, needed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site.toml"
    file.write_text(f'[server]\nworkers = 4\nmax_connections = 500\n{tls}[apps.chat]\ncommand = ["cat"]\n')
    needed += 256 + 4 + 64  # those that wait for an inbox, the inboxes, and others
    assert count_files_of_worker(load_site(file), 4) == needed

    for limit, warnings in ((needed - 1, 1), (needed, 0)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (10, limit))
        with structlog.testing.capture_logs() as events:
            warn_of_few_files(needed)
        assert [(event["limit"], event["needed"]) for event in events] == [(limit, needed)] * warnings


def test_auto_is_a_worker_for_each_cpu_that_the_server_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})

        assert count_workers("auto") == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert count_workers("auto") == len(allowed)
    assert count_workers(3) == 3
