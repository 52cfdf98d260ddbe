"""Limits of a server of several workers, with real clients."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from websockets.exceptions import ConnectionClosed

from tests.workers.serving import Player, Site, kill, serving_workers

LIMIT: Final = 12


def join_all(site: Site, rooms: Sequence[str]) -> tuple[dict[str, Player], list[int]]:
    """Join these rooms. Return who is in one, by room, and the close codes of the others."""
    inside, codes = {}, []
    for room, player in [(room, site.join(room)) for room in rooms]:
        try:
            player.read_pid()
            inside[room] = player
        except ConnectionClosed as closed:
            codes.append(0 if closed.rcvd is None else closed.rcvd.code)
    return inside, codes


def names(prefix: str) -> list[str]:
    return [f"{prefix}{number}" for number in range(2 * LIMIT)]


def test_max_connections_holds_for_all_workers_also_after_their_death(tmp_path: Path) -> None:
    with serving_workers(tmp_path, server=f'bind = "127.0.0.1:0"\nmax_connections = {LIMIT}') as site:
        inside, codes = join_all(site, names("first"))
        assert (len(inside), codes) == (LIMIT, [1013] * LIMIT)

        before = site.workers
        kill(*before.values(), number=signal.SIGKILL)
        assert {player.wait_closed() for player in inside.values()} == {1006}
        for index, pid in before.items():
            site.wait_replaced(index, pid)

        inside, codes = join_all(site, names("second"))
        assert (len(inside), codes) == (LIMIT, [1013] * LIMIT)


def test_max_rooms_holds_for_all_workers(tmp_path: Path) -> None:
    with serving_workers(tmp_path, app=f"max_rooms = {LIMIT}") as site:
        inside, codes = join_all(site, names("room"))
        assert (len(inside), codes) == (LIMIT, [1013] * LIMIT)

        again, codes = join_all(site, list(inside))
        assert (len(again), codes) == (LIMIT, [])
