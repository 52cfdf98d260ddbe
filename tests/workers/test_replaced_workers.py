"""Processes of a server of three workers that are killed, stopped and drained: the server goes on.

The tests share the server. Each kills processes of another worker, because a worker that ends often is started again later.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.workers.serving import ROOMS, Site, children, echo_all, is_running, join_all, kill, serving_workers

PROCESSES = 9
"""Each worker has a spawner and a guardian."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("workers")
    with serving_workers(folder, server='bind = "127.0.0.1:0"\ndrain_timeout = "0s"') as site:
        yield site


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    """The server of this module, without clients and rooms."""
    with ExitStack() as connections:
        yield Site(shared.server, shared.count, connections)
    shared.wait(lambda: len(shared.family) == PROCESSES, f"nothing but {PROCESSES} processes of the server")


def test_all_workers_serve_rooms_and_the_server_is_announced_once(site: Site) -> None:
    rooms = join_all(site)

    for owned in rooms.values():
        echo_all(owned)
    assert site.server.output.count("listening on http") == 1
    assert site.server.output.count("INFO     listening ") == 1
    assert "INFO     workers starting  workers=3\n" in site.server.output
    assert "  3 workers are ready\n" in site.server.output


def test_clients_of_one_room_share_its_program_whichever_worker_accepts_them(site: Site) -> None:
    players = [site.join("lobby") for _ in range(20)]
    pids = {player.read_pid() for player in players}
    players[0].connection.send("hello")

    assert len(pids) == 1
    assert {player.read() for player in players} == {"hello"}


def test_a_killed_worker_is_replaced_and_the_others_never_notice(site: Site) -> None:
    rooms = join_all(site)
    dead = site.workers[1]

    os.kill(dead, signal.SIGKILL)

    while site.workers.get(1, dead) == dead:  # under load
        echo_all(rooms[0] + rooms[2])
    for player, _ in rooms[1]:
        assert player.wait_closed() == 1006
    for number in range(ROOMS):
        player = site.join(f"room{number}")  # also those of the dead, which live in its successor
        assert player.read() != "not alone"
        player.connection.close()
    echo_all(rooms[0] + rooms[2])
    assert not any(is_running(pid) for _, pid in rooms[1])
    site.wait_logged("worker ended")
    assert "end=SIGKILL" in site.output


def test_a_room_never_has_two_programs_when_its_worker_its_spawner_and_its_guardian_are_killed(site: Site) -> None:
    rooms = join_all(site)
    worker = site.workers[2]
    (spawner,) = children(worker)
    (guardian,) = children(spawner) - {pid for _, pid in rooms[2]}
    old = {pid for _, pid in rooms[2]}

    kill(worker, spawner, guardian, number=signal.SIGKILL)

    site.wait_replaced(2, worker)
    assert not any(map(is_running, old))
    for number in range(ROOMS):
        player = site.join(f"room{number}")
        assert player.read() != "not alone"
        player.connection.close()
    assert children(site.pid) == set(site.workers.values())  # nothing that was left behind


def test_rooms_go_on_when_the_spawner_of_a_worker_is_killed(site: Site) -> None:
    rooms = join_all(site)
    (spawner,) = children(site.workers[0])

    os.kill(spawner, signal.SIGKILL)

    site.wait_logged("spawner died")
    for owned in rooms.values():
        echo_all(owned)
    assert " worker=0" in next(line for line in site.output.splitlines() if "spawner died" in line)


def test_a_stopped_worker_goes_on_where_it_was_and_the_others_never_notice(site: Site) -> None:
    rooms = join_all(site)
    before = site.workers
    stopped_at = time.monotonic()

    os.kill(before[1], signal.SIGSTOP)
    for player, _ in rooms[1]:
        player.connection.send("sent meanwhile")
    while time.monotonic() - stopped_at < 1.5:  # longer than the second between two pings
        echo_all(rooms[0] + rooms[2])
    os.kill(before[1], signal.SIGCONT)

    for player, _ in rooms[1]:
        assert player.read() == "sent meanwhile"
        player.echo()
    assert site.workers == before


def test_a_worker_that_gets_sigterm_drains_itself_and_is_replaced(site: Site) -> None:
    rooms = join_all(site)
    leaving = site.workers[0]

    os.kill(leaving, signal.SIGTERM)

    assert {player.wait_closed() for player, _ in rooms[0]} == {1012}
    site.wait_replaced(0, leaving)
    site.wait_logged("worker ready")
    echo_all(rooms[1] + rooms[2])
    assert site.join("another").read() != "not alone"


def test_sighup_reloads_the_site_file(site: Site) -> None:
    before = site.workers
    player = site.join("lobby")
    player.read_pid()

    site.server.send_signal(signal.SIGHUP)

    site.wait_logged("nothing to reload")
    player.echo()
    assert site.workers == before
