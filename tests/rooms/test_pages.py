"""Apps without a target: pages alone, and what an edit does that takes the target of an app away."""

import json
from pathlib import Path

import click
import pytest
import websockets

from scalesocket.cli.status import format_status
from tests.conftest import Serve
from tests.playing import site_of
from tests.rooms.acting import MemoryServe, in_memory

pytestmark = pytest.mark.anyio


async def test_a_websocket_to_an_app_without_rooms_is_404_with_the_reason(serve: Serve, tmp_path: Path) -> None:
    site = await serve(home={"static": tmp_path})

    for path in ("/home/lobby", "/home/", "/home"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await site.join(path)
        assert refused.value.response.status_code == 404
        assert refused.value.response.body == b"this app has no rooms, only pages\n"
    assert site.gateway.status().apps[0].refusals == {"no_rooms": 3}


async def test_at_the_root_it_leaves_other_apps_their_paths(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("home")
    site = await serve(home={"static": tmp_path, "mount": "/"}, chat={"command": ["cat"]})

    ann = await site.join("/chat/lobby")
    await ann.say("hello")
    await ann.hear("hello")

    assert await site.refused("/lobby") == 404
    assert await site.get("/") == (200, "home")


async def test_its_rooms_api_is_there_and_empty(serve: Serve, tmp_path: Path) -> None:
    site = await serve(home={"static": tmp_path})

    assert await site.get("/home/api/rooms/") == (200, "[]")
    assert (await site.get("/home/api/lobby/"))[0] == 404
    app = json.loads((await site.get("/api/apps/"))[1])["apps"][0]
    assert (app["name"], app["target"], app["rooms"]) == ("home", None, 0)


@in_memory
async def test_an_edit_that_takes_the_target_away_lets_running_rooms_go_on(serve: MemoryServe, tmp_path: Path) -> None:
    game = {"command": ["cat"], "static": tmp_path}
    site = await serve(game=game)
    ann = await site.join("/game/lobby")

    site.gateway.apply(site_of({"game": {"static": tmp_path}}))

    await ann.say("still here")
    await ann.hear("still here")
    assert await site.refused("/game/lobby") == 404
    assert site.gateway.pools["game"].status().connections == 1
    site.gateway.apply(site_of({"game": game}))
    bob = await site.join("/game/lobby")
    await bob.say("back")
    await ann.hear("back")


async def test_status_shows_it_as_pages(serve_express: Serve, tmp_path: Path) -> None:
    site = await serve_express(home={"static": tmp_path}, chat={"command": ["cat"]})

    lines = click.unstyle("\n".join(format_status(site.gateway.status(), with_rooms=True))).splitlines()

    assert [line.split() for line in lines[2:5]] == [
        ["APP", "ROOMS", "CLIENTS", "STARTS", "FAILED", "CRASHED", "TARGET"],
        ["home", "-", "-", "-", "-", "-", "pages"],
        ["chat", "0", "0", "0", "0", "0", "cat"],
    ]
