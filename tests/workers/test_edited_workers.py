"""The site of several workers, as an edit of it sees it."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from scalesocket.gateway import Gateway
from scalesocket.workers.edit_messages import RestartApp
from scalesocket.workers.edited_workers import RESTART_TIMEOUT, EditedWorkers
from scalesocket.workers.link import Handlers
from scalesocket.workers.offers import SILENCE
from scalesocket.workers.workers import Workers
from tests.workers.linking import open_pair

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


async def test_an_edit_asks_all_workers_and_waits_for_no_silent_one() -> None:
    never = asyncio.Event()
    answering, stuck = Handlers(), Handlers()
    answering.add(RestartApp, lambda _: 3)
    stuck.add(RestartApp, lambda _: never.wait())
    async with open_pair(Handlers(), answering) as (one, _), open_pair(Handlers(), stuck) as (other, _):
        members = [
            SimpleNamespace(link=link, silent=silent, name="worker")
            for link, silent in ((one, 0.0), (other, SILENCE), (None, 0.0))
        ]
        edited = EditedWorkers(cast(Workers, SimpleNamespace(members=members)), cast(Gateway, None))

        async with asyncio.timeout(RESTART_TIMEOUT / 2):
            assert await edited.restart_app("chat") == 3
