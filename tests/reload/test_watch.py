"""A change of a file is detected once, however it is made."""

import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from scalesocket.reload.watch import SETTLE, WatchedFiles, wait_changed

pytestmark = pytest.mark.anyio

DEADLINE = 2.0 + SETTLE
"""Seconds after the last write within which a change must be detected."""


@pytest.fixture(params=["asyncio", "asyncio+uvloop"], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param.endswith("uvloop")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "site.toml"
    path.write_text("old")
    return path


def write_in_place(file: Path) -> None:
    file.write_text("new text")


def write_with_the_old_size_and_time(file: Path) -> None:
    before = file.stat()
    file.write_text("new")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename_over(file: Path) -> None:
    other = file.with_suffix(".new")
    other.write_text("new")
    other.rename(file)


def remove_and_write_anew(file: Path) -> None:
    file.unlink()
    file.write_text("new")


def replace_the_folder(file: Path) -> None:
    shutil.rmtree(file.parent)
    file.parent.mkdir()
    file.write_text("new")


CHANGES: list[Callable[[Path], None]] = [
    write_in_place,
    write_with_the_old_size_and_time,
    rename_over,
    remove_and_write_anew,
    replace_the_folder,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_a_change_is_detected(file: Path, change: Callable[[Path], None]) -> None:
    watched = WatchedFiles(files=frozenset({file}))
    before = watched.fingerprint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(change_later, change, file)
        with anyio.fail_after(0.1 + DEADLINE):
            after = await wait_changed(watched, before)

    assert after == watched.fingerprint() != before


async def test_a_change_before_the_wait_is_detected(file: Path) -> None:
    watched = WatchedFiles(files=frozenset({file}))
    before = watched.fingerprint()
    write_in_place(file)

    with anyio.fail_after(DEADLINE):
        after = await wait_changed(watched, before)

    assert after != before


async def test_the_swap_of_a_symlinked_folder_is_detected(tmp_path: Path) -> None:
    # given a mounted ConfigMap: site.toml -> ..data/site.toml, ..data -> ..1
    for version in ("1", "2"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "site.toml").write_text(version)
    (tmp_path / "..data").symlink_to("..1")
    file = tmp_path / "site.toml"
    file.symlink_to("..data/site.toml")
    watched = WatchedFiles(files=frozenset({file}))
    before = watched.fingerprint()

    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    with anyio.fail_after(DEADLINE):
        await wait_changed(watched, before)
    assert file.read_text() == "2"


async def test_an_edit_behind_a_symlink_is_detected(tmp_path: Path, file: Path) -> None:
    link = tmp_path / "elsewhere" / "link.toml"
    link.parent.mkdir()
    link.symlink_to(file)
    watched = WatchedFiles(files=frozenset({link}))
    before = watched.fingerprint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(change_later, write_in_place, file)
        with anyio.fail_after(0.1 + DEADLINE):
            after = await wait_changed(watched, before)

    assert before != after == watched.fingerprint()


async def test_a_new_file_that_matches_an_include_is_detected(tmp_path: Path, file: Path) -> None:
    apps = tmp_path / "apps"
    apps.mkdir()
    watched = WatchedFiles(files=frozenset({file}), folders=frozenset({apps}))
    before = watched.fingerprint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(change_later, write_in_place, apps / "pong.toml")
        with anyio.fail_after(0.1 + DEADLINE):
            after = await wait_changed(watched, before)

    assert apps / "pong.toml" in after


@pytest.mark.usefixtures("real_intervals")
async def test_the_wait_lasts_until_a_file_written_in_pieces_is_complete(file: Path) -> None:
    watched = WatchedFiles(files=frozenset({file}))
    before = watched.fingerprint()

    async def write_in_pieces() -> None:
        with file.open("w") as target:
            for _ in range(8):
                target.write("piece\n")
                target.flush()
                await anyio.sleep(SETTLE / 2)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write_in_pieces)
        with anyio.fail_after(8 * SETTLE + DEADLINE):
            after = await wait_changed(watched, before)

    assert watched.fingerprint() == after
    assert [mark[2] for mark in after.values() if mark is not None] == [len("piece\n" * 8)]


async def test_a_file_beside_the_site_file_is_ignored(tmp_path: Path, file: Path) -> None:
    watched = WatchedFiles(files=frozenset({file}))
    before = watched.fingerprint()
    (tmp_path / "notes.txt").write_text("not a site")

    with anyio.move_on_after(0.3) as waited:
        await wait_changed(watched, before)

    assert waited.cancelled_caught


@pytest.mark.parametrize(
    "error", [OSError("no inotify watch to spare"), RuntimeError("broken"), ExceptionGroup("in a thread", [OSError()])]
)
async def test_without_notifications_a_change_is_found_by_polling(
    file: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def awatch(*_: object, **__: object) -> AsyncIterator[None]:
        raise error
        yield

    monkeypatch.setattr("scalesocket.reload.watch.awatch", awatch)
    watched = WatchedFiles(files=frozenset({file}))
    before = watched.fingerprint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(change_later, write_in_place, file)
        with anyio.fail_after(0.1 + DEADLINE):
            after = await wait_changed(watched, before)

    assert before != after == watched.fingerprint()


async def test_the_wait_ends_soon_after_it_is_cancelled(file: Path) -> None:
    watched = WatchedFiles(files=frozenset({file}))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_changed, watched, watched.fingerprint())
        await anyio.sleep(0.1)
        started = anyio.current_time()
        tasks.cancel_scope.cancel()

    assert anyio.current_time() - started < 3.0


async def change_later(change: Callable[[Path], None], file: Path) -> None:
    await anyio.sleep(0.1)
    change(file)
