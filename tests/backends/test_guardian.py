"""The guardian: which processes it finds, and its table of groups."""

import os
from pathlib import Path

import pytest

from scalesocket.backends.spawner.group_table import FIRST, USED, GroupTable
from scalesocket.backends.spawner.guardian import find_remaining_groups, find_unlisted_children
from scalesocket.backends.spawner.processes import ProcessStat
from scalesocket.backends.spawner_client import SpawnerClient
from tests.backends.recording import (
    until,
)

pytestmark = pytest.mark.anyio


async def test_the_guardian_has_a_name_and_a_group_of_its_own(spawner: SpawnerClient) -> None:
    guardian = spawner.guardian
    assert guardian is not None

    await until(lambda: names(guardian) == ("room-guard", f"room guard of {os.getpid()}"))
    assert os.getpgid(guardian) == guardian


def names(pid: int) -> tuple[str, str]:
    """The names that pkill and pkill -f match."""
    return Path(f"/proc/{pid}/comm").read_text().rstrip("\n"), Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")


def process(
    pid: int, group: int, *, started: int, session: int | None = None, parent: int = 1, niceness: int = 19
) -> ProcessStat:
    """A process as the guardian sees it."""
    return ProcessStat(pid, parent, group, os.getsid(0) if session is None else session, niceness, started)


def test_the_guardian_finds_added_groups_and_recognizes_reused_numbers() -> None:
    added_at = {10: 500, 20: 500, 30: 500, 40: 500, 50: 500, 60: 500}
    processes = [
        process(10, 10, started=500),
        process(11, 10, started=950),
        process(20, 20, started=901),  # its number was reused
        process(21, 20, started=901),
        process(31, 30, started=700),  # its leader has ended
        process(41, 40, started=901),  # its number was reused by a group whose leader has ended, too
        process(50, 50, started=400, session=-1),
        process(60, 99, started=450),  # a leader that has joined another group
        process(70, 70, started=500),
    ]

    assert find_remaining_groups(processes, added_at, orphaned_at=900) == {10, 30, 60}


def test_the_guardian_finds_a_child_that_was_being_started() -> None:
    parent = os.getppid()
    processes = [
        process(10, 10, started=895, parent=parent),
        process(11, 7, started=900, parent=parent),  # not yet in a group of its own
        process(20, 20, started=894, parent=parent),  # before
        process(21, 21, started=901, parent=parent),  # after
        process(22, 22, started=895, parent=parent + 1),
        process(23, 23, started=895, parent=parent, session=-1),
        process(24, 24, started=895, parent=parent, niceness=-20),
        process(25, 10, started=895, parent=parent),
        process(os.getpid(), os.getpid(), started=895, parent=parent),
    ]

    assert find_unlisted_children(processes, since=895, orphaned_at=900, spawner=7) == {10, 11}


def test_slots_of_the_table_are_reused() -> None:
    groups = GroupTable()
    first, second = groups.add(100), groups.add(200)
    groups.remove(first)

    third = groups.add(300)

    assert third == first != second
    assert set(groups.added_at()) == {200, 300}
    assert groups.words[USED] == FIRST + 2


def test_a_group_for_which_the_table_has_no_slot_is_left_out() -> None:
    groups = GroupTable()
    groups.words[USED] = len(groups.words)

    place = groups.add(100)
    groups.remove(place)

    assert place == 0
    assert groups.starting_since == 0
