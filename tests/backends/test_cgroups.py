"""The control groups of programs with `limits`: for real where the tests may create them, and in a made-up tree."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from scalesocket.backends import orphan_reaper
from scalesocket.backends.spawner import cgroups
from scalesocket.backends.spawner.cgroups import RoomGroups, find_base, move_server
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.backends.spawner_process import log_cgroups
from scalesocket.errors import BackendError
from tests.backends.gateways import started_gateway
from tests.backends.recording import OpenRoom, exists, is_alive, program, until
from tests.backends.spawners import kill_spawner, list_running

pytestmark = pytest.mark.anyio

LIMITS = {"open_files": 64}
LEAVE = ("sh", "-c", "setsid sleep 61 >&- 2>&- & echo $!; exec cat")


def may_create() -> bool:
    """Whether control groups can be used here."""
    groups = RoomGroups(os.getpid(), find_base())
    may = groups.prepare()
    groups.end()
    return may


def may_unmount() -> bool:
    """Whether a process may have mounts of its own here."""
    return subprocess.run(["unshare", "-m", "true"], check=False, stderr=subprocess.DEVNULL).returncode == 0


real = pytest.mark.skipif(not may_create(), reason="no control group may be created here")


def folders(gateway: int) -> list[Path]:
    """The groups of a server."""
    return list(Path(find_base() or "/nowhere").glob(f"scalesocket-*-{gateway}"))


def rooms() -> list[Path]:
    """The groups of the programs that this process runs."""
    return [room for folder in folders(os.getpid()) for room in folder.glob("room-*")]


@real
async def test_a_program_that_left_its_process_group_is_killed_with_its_room(open_room: OpenRoom) -> None:
    room = await open_room(*LEAVE, limits=LIMITS)
    pid = int(await room.wait_line())
    await until(lambda: os.getsid(pid) == pid)
    assert [folder.name for folder in rooms()] == [f"room-{room.backend.pid}"]

    await room.stop()

    await until(lambda: not exists(pid))
    await until(lambda: not rooms())


@real
async def test_a_program_without_limits_is_in_no_group(open_room: OpenRoom) -> None:
    room = await open_room("cat", "/proc/self/cgroup")

    await room.end()

    assert b"scalesocket" not in room.output
    assert not rooms()


@real
async def test_processes_that_flee_from_their_room_are_killed(
    open_room: OpenRoom, spawner: SpawnerClient, tmp_path: Path
) -> None:
    script = tmp_path / "hop"
    script.write_text('[ "$1" = 0 ] || setsid sh "$0" $(($1 - 1)) hopping >&- 2>&- & [ "$1" != 9999 ] || exec cat\n')
    room = await open_room("sh", str(script), "9999", "hopping", limits=LIMITS)
    await until(lambda: len(list_running("hopping")) > 0)

    await room.stop()

    await until(lambda: not rooms())
    assert not list_running("hopping")
    children = Path(f"/proc/{spawner.pid}/task/{spawner.pid}/children")
    await until(lambda: children.read_text().split() == [str(spawner.guardian)])  # all were reaped


@real
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the user")
async def test_another_user_is_in_a_group(open_room: OpenRoom) -> None:
    room = await open_room("sh", "-c", "id -u; id -g; id -G; cat /proc/self/cgroup", user="nobody", cwd="/", limits=LIMITS)

    await room.end()

    lines = room.output.decode().split("\n")
    assert lines[:3] == ["65534"] * 3
    assert f"/room-{room.backend.pid}" in room.output.decode()


@real
async def test_a_start_that_fails_leaves_no_group(open_room: OpenRoom) -> None:
    for _ in range(3):
        with pytest.raises(BackendError, match="no such file"):
            await open_room("/nowhere/program", limits=LIMITS)

    assert not rooms()


@real
async def test_the_group_of_a_program_outlives_its_spawner(
    open_room: OpenRoom, spawner: SpawnerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphan_reaper, "INTERVAL", 0.2)
    room = await open_room(*LEAVE, limits=LIMITS)
    pid = int(await room.wait_line())
    await kill_spawner(spawner)
    assert is_alive(pid)

    await room.stop()

    await until(lambda: not is_alive(pid))
    await until(lambda: not rooms())
    await until(lambda: not exists(pid))


@real
@pytest.mark.parametrize("who", ["gateway", "both"])
async def test_nothing_in_a_group_outlives_the_server(loop: asyncio.AbstractEventLoop, who: str) -> None:
    async with started_gateway() as gateway:
        pids = await gateway.open(*LEAVE, limits=LIMITS)
        assert all(map(is_alive, pids))
        assert folders(gateway.process.pid)

        if who == "both":
            os.kill(gateway.spawner, signal.SIGKILL)
        await gateway.kill()

        await until(lambda: not any(map(is_alive, pids)))
        await until(lambda: not folders(gateway.process.pid))


@real
async def test_the_log_says_once_which_groups_are_used(open_room: OpenRoom, logged: list[dict[str, object]]) -> None:
    for _ in range(2):
        await (await open_room("cat", limits=LIMITS)).stop()

    events = [str(event["event"]) for event in logged if "cgroup" in str(event["event"])]
    assert events in (["cgroups used for limits"], ["cgroups without controllers for limits"])


@pytest.mark.parametrize(
    ("controllers", "reason", "level", "missing"),
    [
        (("memory", "pids"), "", "info", set()),
        (("memory",), "", "warning", {"processes"}),
        ((), "", "warning", {"memory", "processes"}),
        ((), "/cg: permission denied", "warning", {"memory", "processes", "setsid"}),
    ],
    ids=["all", "memory", "none", "no-groups"],
)
def test_the_log_says_which_limits_do_not_hold_for_a_whole_program_and_what_to_do(
    logged: list[dict[str, object]], controllers: tuple[str, ...], reason: str, level: str, missing: set[str]
) -> None:
    log_cgroups("/cg", controllers, reason)

    (event,) = logged
    assert event["log_level"] == level
    hint = str(event["hint"]) if missing else ""
    assert {word for word in ("memory", "processes", "setsid") if re.search(rf"\b{word} ", hint)} == missing
    assert ("Delegate=yes" in hint) == bool(missing)


HOG = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        room = bytearray(b"x") * (24 << 20)
        time.sleep(60)
        os._exit(0)
print(os.WTERMSIG(os.wait()[1]), flush=True)
time.sleep(60)
"""


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A group of our own with controllers, for a server to be started in."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line]
    if not mounts or not os.access(mounts[0], os.W_OK) or os.geteuid() != 0:
        pytest.skip("no control group may be created here")
    base = Path(mounts[0]) / f"scalesocket-test-{os.getpid()}"
    base.mkdir()
    try:
        if not {"memory", "pids"} <= {*(base / "cgroup.controllers").read_text().split()}:
            pytest.skip("the cgroup2 file system here has no controllers for memory and pids")
        yield base
    finally:
        for folder in (base / cgroups.SERVER_GROUP, base):
            with suppress(FileNotFoundError):
                folder.rmdir()


ENTER = ("sh", "-c", 'unset INVOCATION_ID; echo $$ >"$0/cgroup.procs" && exec "$@"')


async def test_a_fork_bomb_of_root_gets_as_many_processes_as_its_limit(loop: object, delegated: Path) -> None:
    async with started_gateway(*ENTER, str(delegated)) as gateway:
        bomb = await gateway.open(*program("fork_bomb"), limits={"processes": 20})
        other = await gateway.open("sh", "-c", "echo $$; exec cat", limits={"processes": 20})

        assert {19, 481} <= bomb  # 20 with the program itself
        assert len(other) == 1
        await gateway.kill()
    await until(lambda: not list(delegated.glob("scalesocket-*-*")))


async def test_the_memory_of_a_program_is_limited_for_all_its_processes_together(loop: object, delegated: Path) -> None:
    async with started_gateway(*ENTER, str(delegated)) as gateway:
        pids = await gateway.open(sys.executable, "-c", HOG, limits={"memory": 64 << 20})

        assert signal.SIGKILL in pids  # although each process was below the limit
        await gateway.kill()
    await until(lambda: not list(delegated.glob("scalesocket-*-*")))


@real
def test_the_groups_of_dead_servers_are_killed_and_removed() -> None:
    process = subprocess.Popen(["sleep", "61"])
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = RoomGroups(dead.pid, find_base())
    Path(left.folder(1)).mkdir(parents=True)
    Path(left.folder(1), "cgroup.procs").write_text(str(process.pid))
    groups = RoomGroups(os.getpid(), find_base())

    groups.prepare()
    groups.end()

    assert process.wait(5) == -signal.SIGKILL
    assert not Path(left.root).exists()


@real
def test_groups_within_groups_are_removed_however_deep_they_are() -> None:
    base = Path(find_base() or "") / f"scalesocket-test-{os.getpid()}"
    deepest = base.joinpath(*["x"] * 1200)
    for folder in (*reversed(deepest.parents), deepest):
        if base in (folder, *folder.parents):
            folder.mkdir()
    process = subprocess.Popen(["sleep", "61"])
    (deepest / "cgroup.procs").write_text(str(process.pid))

    while not cgroups.remove(str(base)):
        process.wait(5)

    assert process.poll() == -signal.SIGKILL
    assert not base.exists()


def test_without_groups_the_reason_is_known(tmp_path: Path) -> None:
    none = RoomGroups(os.getpid(), None)
    unwritable = RoomGroups(os.getpid(), "/proc/self")

    assert not none.prepare()
    assert not unwritable.prepare()

    assert none.reason == "no cgroup2 file system is mounted"
    assert unwritable.reason.startswith("/proc/self/scalesocket-")
    assert unwritable.remove_all()


@pytest.mark.skipif(not may_unmount(), reason="no mount namespace may be created here")
async def test_without_the_file_system_programs_run_within_their_limits(tmp_path: Path) -> None:
    script = tmp_path / "start.sh"
    script.write_text(
        'grep " - cgroup2 " /proc/self/mountinfo | cut -d" " -f5 | while read folder; do umount "$folder" || exit; done\n'
        'exec "$@"\n'
    )
    async with started_gateway("unshare", "-m", "sh", str(script)) as gateway:
        pids = await gateway.open("sh", "-c", "ulimit -n; exec cat", limits=LIMITS)

        assert 64 in pids
        assert not folders(gateway.process.pid)
        await gateway.kill()


class Tree:
    """A made-up cgroup2 file system."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.add(base)

    def add(self, folder: Path) -> None:
        for name, text in {"type": "domain", "controllers": "cpu memory pids", "subtree_control": "", "procs": ""}.items():
            (folder / f"cgroup.{name}").write_text(text)

    def make_folder(self, folder: str) -> bool:
        if Path(folder).exists():
            return False
        Path(folder).mkdir()
        self.add(Path(folder))
        return True

    def write(self, path: str, text: str) -> None:
        file = Path(path)
        if file.name == "cgroup.subtree_control":
            file.write_text(f"{file.read_text()} {text.removeprefix('+')}")
        elif file.name == "cgroup.procs" and file.parent.name == cgroups.SERVER_GROUP:
            procs = self.base / "cgroup.procs"
            procs.write_text(" ".join(word for word in procs.read_text().split() if word != text))
            file.write_text(f"{file.read_text()} {text}")
        else:
            file.write_text(text)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    tree = Tree(tmp_path)
    monkeypatch.setattr(cgroups, "make_folder", tree.make_folder)
    monkeypatch.setattr(cgroups, "write", tree.write)
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    yield tree
    with suppress(OSError):
        tree.base.rmdir()


def test_limits_hold_for_the_whole_group_where_it_was_delegated(tree: Tree) -> None:
    (tree.base / "cgroup.procs").write_text(str(os.getpid()))
    groups = RoomGroups(os.getpid(), str(tree.base))

    assert groups.prepare()
    groups.make_joiner({"memory": 1 << 28, "processes": 64, "open_files": 99})()

    room = Path(groups.folder(os.getpid()))
    assert groups.controllers == ("memory", "pids")
    assert (tree.base / cgroups.SERVER_GROUP / "cgroup.procs").read_text().split() == [str(os.getpid())]
    assert (tree.base / "cgroup.procs").read_text() == ""
    assert ((room / "memory.max").read_text(), (room / "pids.max").read_text()) == (str(1 << 28), "64")
    assert (room / "cgroup.procs").read_text() == "0"


def test_a_group_of_several_workers_is_delegated_to_their_supervisor(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "61"]) as other_worker:
        (tree.base / "cgroup.procs").write_text(f"{os.getpid()} {other_worker.pid}")
        monkeypatch.setenv(cgroups.SERVER_VARIABLE, str(os.getpid()))
        groups = RoomGroups(other_worker.pid, str(tree.base))

        assert groups.prepare()

        assert groups.controllers == ("memory", "pids")
        other_worker.kill()


@pytest.mark.parametrize("reason", ["others", "systemd"])
def test_a_group_that_was_not_delegated_is_left_as_it_is(tree: Tree, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    (tree.base / "cgroup.procs").write_text(f"{os.getpid()} 1" if reason == "others" else str(os.getpid()))
    if reason == "systemd":
        monkeypatch.setenv("INVOCATION_ID", "0123")
    groups = RoomGroups(os.getpid(), str(tree.base))

    assert groups.prepare()  # they only kill
    groups.make_joiner({"memory": 1 << 28})()

    assert groups.controllers == ()
    assert not (tree.base / cgroups.SERVER_GROUP).exists()
    assert not Path(groups.folder(os.getpid()), "memory.max").exists()
    with pytest.raises(PermissionError):
        move_server(str(tree.base), os.getpid())


def test_without_cgroup_kill_each_process_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "61"])
    (tmp_path / "cgroup.procs").write_text(f"0\n{process.pid}\n")  # 0: not in our pid namespace

    cgroups.kill(str(tmp_path))

    assert process.wait(5) == -signal.SIGKILL
