"""A worker's end of edits, with messages in any order."""

import asyncio
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from scalesocket.config.load import load_site
from scalesocket.config.model import Site
from scalesocket.config.plan import Plan
from scalesocket.control.messages import AffectedKey
from scalesocket.errors import ScalesocketError
from scalesocket.reload.preparation import Preparation, Prepare, prepare_all
from scalesocket.server.addresses import address_of_socket
from scalesocket.workers.edit_messages import CommitEdit, Edit, EditPart, PrepareEdit, RollBackEdit, write_edit
from scalesocket.workers.edited_worker import EditedWorker, EndingError, RolledBackError
from scalesocket.workers.edited_workers import merge_affected
from tests.playing import Playground, open_playground
from tests.reload.editing import CHAT, OTHER, SERVER
from tests.reload.test_loss_free import count_fds

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


class Sender:
    """The supervisor of a worker."""

    def __init__(self, folder: Path, playground: Playground) -> None:
        self.file = folder / "site.toml"
        self.failed: list[bool] = []
        self.is_ending = False
        self.worker = EditedWorker(
            playground.service, is_ending=lambda: self.is_ending, on_failed=lambda: self.failed.append(True)
        )
        self.sock = socket.create_server(("127.0.0.1", 0))

    def send(self, number: int, text: str, part: int) -> None:
        """Send one part of an edit: 0 is the site, 1 a listening socket."""
        self.file.write_text(text)
        edit = Edit(
            number=number,
            generation=number,
            site=load_site(self.file),
            pair=None,
            auth_files={},
            addresses=[address_of_socket(self.sock, fd=None)],
        )
        fd = write_edit(edit) if part == 0 else os.dup(self.sock.fileno())
        self.worker.receive(msgspec.msgpack.encode(EditPart(number, part)), fd)


async def test_an_edit_is_prepared_when_all_parts_have_arrived_and_a_newer_one_replaces_it(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(SERVER + CHAT)
    async with open_playground(load_site(file)) as playground:
        sender = Sender(tmp_path, playground)
        before = count_fds("self")
        sender.send(5, SERVER + CHAT, 0)  # for a predecessor, which has ended
        old = asyncio.create_task(sender.worker.prepare(PrepareEdit(5, 2)))
        await asyncio.sleep(0)

        sender.send(7, SERVER + OTHER, 1)
        with pytest.raises(RolledBackError):
            await old
        sender.send(5, SERVER + CHAT, 1)
        new = asyncio.create_task(sender.worker.prepare(PrepareEdit(7, 2)))
        await asyncio.sleep(0)
        sender.send(7, SERVER + OTHER, 0)
        await new
        assert set(playground.gateway.site.apps) == {"chat"}

        sender.worker.commit(CommitEdit(7))

        assert set(playground.gateway.site.apps) == {"other"}
        assert playground.gateway.reload_state.generation == 7
        assert playground.service.listeners.addresses == [str(address_of_socket(sender.sock, fd=None))]
        assert count_fds("self") <= before
        assert sender.failed == []
        sender.sock.close()


async def test_an_edit_that_is_rolled_back_leaves_nothing_whenever_its_parts_arrive(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(SERVER + CHAT)
    async with open_playground(load_site(file)) as playground:
        sender = Sender(tmp_path, playground)
        addresses, before = playground.service.listeners.addresses, count_fds("self")
        for number in (1, 2):
            sender.send(number, SERVER + OTHER, 0)
            sender.send(number, SERVER + OTHER, 1)
            if number == 1:
                await sender.worker.prepare(PrepareEdit(number, 2))
            sender.worker.roll_back(RollBackEdit(number))
        sender.worker.roll_back(RollBackEdit(3))
        sender.send(3, SERVER + OTHER, 0)
        with pytest.raises(RolledBackError):
            await sender.worker.prepare(PrepareEdit(3, 2))

        assert count_fds("self") == before
        assert playground.service.listeners.addresses == addresses
        sender.is_ending = True
        with pytest.raises(EndingError):
            await sender.worker.prepare(PrepareEdit(4, 2))
        sender.worker.commit(CommitEdit(4))
        assert sender.failed == [True]
        assert playground.gateway.reload_state.generation == 1
        sender.sock.close()


async def test_an_edit_that_is_rolled_back_when_it_has_just_been_prepared_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site.toml"
    file.write_text(SERVER + CHAT)
    async with open_playground(load_site(file)) as playground:
        sender = Sender(tmp_path, playground)

        async def prepare_and_roll_back(prepares: Sequence[Prepare], site: Site, plan: Plan) -> list[Preparation]:
            prepared = await prepare_all(prepares, site, plan)
            sender.worker.roll_back(RollBackEdit(1))
            return prepared

        monkeypatch.setattr("scalesocket.workers.edited_worker.prepare_all", prepare_and_roll_back)
        before = count_fds("self")
        for part in (0, 1):
            sender.send(1, SERVER + OTHER, part)

        with pytest.raises(RolledBackError):
            await sender.worker.prepare(PrepareEdit(1, 2))

        assert count_fds("self") == before
        sender.worker.commit(CommitEdit(1))
        assert set(playground.gateway.site.apps) == {"chat"}
        sender.sock.close()


async def test_a_file_that_cannot_be_opened_refuses_the_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "site.toml"
    file.write_text(SERVER + CHAT)

    async def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    async with open_playground(load_site(file)) as playground:
        sender = Sender(tmp_path, playground)
        monkeypatch.setattr("scalesocket.workers.edited_worker.load_tls_of", fail)
        for part in (0, 1):
            sender.send(1, SERVER + OTHER, part)

        with pytest.raises(ScalesocketError, match="Too many open files"):
            await sender.worker.prepare(PrepareEdit(1, 2))
        sender.sock.close()


def test_figures_of_workers_are_added_and_those_of_another_edit_left_out() -> None:
    def key(path: str, rooms: int, users: tuple[str, ...] = ()) -> AffectedKey:
        return AffectedKey(
            path=path, kind="changed", reload="live", rooms=rooms, clients=2 * rooms, kept_out=len(users), kept_out_users=users
        )

    names = tuple(f"user{number:02}" for number in range(30))
    merged = merge_affected(
        [key("a", 0), key("b", 0)],
        [[key("a", 3, names[:20]), key("b", 1)], [key("a", 4, (*names[10:29], "ann"))], [key("gone", 9)]],
    )

    assert [(change.path, change.rooms, change.clients) for change in merged] == [("a", 7, 14), ("b", 1, 2)]
    assert merged[0].kept_out == 40
    assert merged[0].kept_out_users == ("ann", *names[:19])
