"""Limits and refusals: by a status before the upgrade, or by a close after it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from scalesocket.capacity.places import LocalPlaces
from scalesocket.config.model import App, Server, Site
from tests.conftest import Serve
from tests.playing import Playground, program
from tests.rooms.acting import MemoryServe, MemorySite, in_memory

CAT: dict[str, Any] = {"command": ["cat"]}


def refusals(site: Playground | MemorySite, app: str) -> dict[str, int]:
    return dict(site.gateway.pools[app].status().refusals)


# --- Full: accepted, then closed with 1013


@in_memory
async def test_a_room_takes_max_clients(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "max_clients": 2})
    ann, bob = await site.join("/game/one"), await site.join("/game/one")

    eve = await site.join("/game/one")

    assert await eve.wait_closed() == (1013, "the room is full")
    assert refusals(site, "game") == {"room_full": 1}
    await ann.say("we are complete")
    await bob.hear("we are complete")


@in_memory
async def test_a_slot_is_free_again_when_its_client_left(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "max_clients": 2})
    ann, bob = await site.join("/game/one"), await site.join("/game/one")
    await bob.leave()
    await site.until(lambda: site.gateway.connections == 1)

    eve = await site.join("/game/one")

    await ann.say("welcome")
    await eve.hear("welcome")


@in_memory
async def test_a_place_in_the_app_is_free_again_when_its_client_left(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "max_connections": 1, "max_clients": 1})
    for _ in range(3):
        ann = await site.join("/game/one")
        eve = await site.join("/game/one")

        assert await eve.wait_closed() == (1013, "the app is full")
        assert ann.closed is None
        await ann.leave()


@in_memory
async def test_a_client_that_the_room_refuses_takes_no_place_in_the_app_and_the_server(serve: MemoryServe) -> None:
    site = await serve(Server(max_connections=2), game={**CAT, "max_connections": 2, "max_clients": 1})
    await site.join("/game/one")
    for _ in range(3):
        eve = await site.join("/game/one")
        assert await eve.wait_closed() == (1013, "the room is full")

    bob = await site.join("/game/two")

    assert bob.closed is None


@in_memory
async def test_a_refused_client_causes_no_join_and_no_leave(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "max_clients": 1, "join_message": "+#ID", "leave_message": "-#ID"})
    ann = await site.join("/game/one")
    await ann.hear("+1")

    eve = await site.join("/game/one")
    assert (await eve.wait_closed())[0] == 1013
    await ann.say("nobody came")

    await ann.hear("nobody came")


@in_memory
async def test_an_app_has_max_rooms(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "max_rooms": 2})
    await site.join("/game/one")
    await site.join("/game/two")

    eve = await site.join("/game/three")
    bob = await site.join("/game/two")

    assert await eve.wait_closed() == (1013, "the app has no place for another room")
    assert refusals(site, "game") == {"too_many_rooms": 1}
    await bob.say("rooms that are open take more clients")
    await bob.hear("rooms that are open take more clients")


@in_memory
async def test_a_room_whose_slot_another_process_takes_first_leaves_nothing_behind(
    serve: MemoryServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await serve(game={**CAT, "max_rooms": 9, "history": {"size": 2, "persist": True}})
    pool, take = site.gateway.pools["game"], LocalPlaces.take
    with monkeypatch.context() as patch:
        patch.setattr(LocalPlaces, "take", lambda places, limit: limit != 9 and take(places, limit))

        eve = await site.join("/game/one")

        assert await eve.wait_closed() == (1013, "the app has no place for another room")
    assert pool.is_empty
    assert not pool._histories._kept
    ann = await site.join("/game/one")
    await ann.say("it opens later")
    await ann.hear("it opens later")


@in_memory
async def test_a_stopping_room_keeps_its_slot_for_its_successor(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["alone", "0.5"], "max_rooms": 1})
    ann = await site.join("/game/one")
    await ann.listen()
    await ann.leave()
    await site.until(lambda: "one" not in site.gateway.pools["game"].rooms)

    eve = await site.join("/game/two")
    bob = await site.join("/game/one")

    assert (await eve.wait_closed())[0] == 1013
    await bob.listen()


@in_memory
async def test_the_slot_of_a_room_is_free_when_it_has_ended(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "max_rooms": 1})
    await (await site.join("/game/one")).leave()
    await site.wait_no_rooms()

    bob = await site.join("/game/two")

    await bob.say("mine")
    await bob.hear("mine")


@in_memory
async def test_an_app_takes_max_connections(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "max_connections": 2}, other=CAT)
    await site.join("/game/one")
    await site.join("/game/two")

    eve = await site.join("/game/one")
    bob = await site.join("/other/one")

    assert await eve.wait_closed() == (1013, "the app is full")
    assert refusals(site, "game") == {"app_full": 1}
    await bob.say("others have place")
    await bob.hear("others have place")


@in_memory
async def test_a_server_takes_max_connections(serve: MemoryServe) -> None:
    site = await serve(Server(max_connections=2), game=CAT, other=CAT)
    await site.join("/game/one")
    await site.join("/other/one")

    eve = await site.join("/other/one")

    assert await eve.wait_closed() == (1013, "the server is full")
    assert site.gateway.status().refusals == {"server_full": 1}


async def test_a_full_server_still_answers_its_health(serve: Serve) -> None:
    site = await serve(Server(max_connections=3), game=CAT)
    for _ in range(3):
        await site.join("/game/one")

    assert (await site.get("/health"))[0] == 200


# --- Refused before the upgrade


@in_memory
async def test_an_unknown_app_is_404(serve: MemoryServe) -> None:
    site = await serve(game=CAT)

    assert await site.refused("/nothing/one") == 404
    assert await site.refused("/game/one/two") == 404
    assert site.gateway.status().refusals == {"unknown_app": 1}
    assert refusals(site, "game") == {"unknown_app": 1}


@in_memory
async def test_a_room_outside_the_list_is_404(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "rooms": ("red", "blue")})

    assert await site.refused("/game/green") == 404
    assert refusals(site, "game") == {"not_listed": 1}
    await site.join("/game/red")


@pytest.mark.parametrize("name", ["", "a%20b", "%2e%2e", ".", "a%2Fb", "%ff", "a%00", "x" * 129, "a!"])
@in_memory
async def test_a_name_that_room_pattern_does_not_match_is_400(serve: MemoryServe, name: str) -> None:
    site = await serve(game=CAT)

    assert await site.refused(f"/game/{name}") == 400
    assert refusals(site, "game") == {"bad_name": 1}


@pytest.mark.parametrize(
    ("path", "name"), [("/game/caf%C3%A9", "café"), ("/game/a.b~c-1", "a.b~c-1"), ("/game/one/", "one"), ("/game/one?x=/", "one")]
)
@in_memory
async def test_a_name_is_decoded_before_it_is_matched(serve: MemoryServe, path: str, name: str) -> None:
    site = await serve(game=CAT)

    await site.join(path)

    assert list(site.gateway.pools["game"].rooms) == [name]


@in_memory
async def test_an_app_chooses_its_own_room_pattern(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "room_pattern": "[0-9]{4}"})

    assert await site.refused("/game/lobby") == 400
    assert await site.refused("/game/12345") == 400
    await site.join("/game/1234")


@pytest.mark.parametrize("name", ["api", "metrics", "health", "ready", "static", "upload", "admin", "robots.txt", "other"])
@in_memory
async def test_reserved_names_are_400_at_the_root(serve: MemoryServe, name: str) -> None:
    site = await serve(app={**CAT, "mount": "/"}, other=CAT)

    assert await site.refused(f"/{name}") == 400


@in_memory
async def test_the_app_at_the_root_has_its_rooms_there(serve: MemoryServe) -> None:
    site = await serve(app={**CAT, "mount": "/"}, other=CAT)

    ann, bob = await site.join("/lobby"), await site.join("/other/api")

    await ann.say("hello")
    await ann.hear("hello")
    assert list(site.gateway.pools["app"].rooms) == ["lobby"]
    assert list(site.gateway.pools["other"].rooms) == ["api"]
    await bob.leave()


# --- Origins


async def test_a_page_of_the_same_origin_may_connect(serve: Serve) -> None:
    site = await serve(game=CAT)

    page = await site.join("/game/one", origin=f"http://127.0.0.1:{site.port}")

    await page.say("hello")
    await page.hear("hello")


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1", "null", "https://127.0.0.1:443"])
@in_memory
async def test_a_page_of_another_origin_is_403(serve: MemoryServe, origin: str) -> None:
    site = await serve(game=CAT)

    assert await site.refused("/game/one", origin=origin) == 403
    assert refusals(site, "game") == {"origin": 1}


@in_memory
async def test_an_origin_that_may_not_connect_is_logged_once(serve: MemoryServe) -> None:
    site = await serve(game=CAT)

    for _ in range(3):
        assert await site.refused("/game/one", origin="http://evil.example") == 403

    [told] = serve.logged("origin refused")
    assert (told["app"], told["origin"]) == ("game", "http://evil.example")
    assert len(serve.logged("upgrade refused")) == 3


@in_memory
async def test_a_client_without_an_origin_is_no_browser_and_passes(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "origins": ("https://play.example",)})

    program = await site.join("/game/one")

    await program.say("hello")
    await program.hear("hello")


@in_memory
async def test_listed_origins_are_the_only_ones(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "origins": ("https://play.example",)})

    await site.join("/game/one", origin="https://play.example")
    await site.join("/game/one", origin="https://PLAY.example")
    assert await site.refused("/game/one", origin="http://play.example") == 403
    assert await site.refused("/game/one", origin=f"http://127.0.0.1:{site.port}") == 403


@in_memory
async def test_any_origin_may_connect_where_the_star_is_listed(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "origins": ("*",)})

    site_page = await site.join("/game/one", origin="http://evil.example")
    file_page = await site.join("/game/one", origin="null")

    await site_page.say("hello")
    await file_page.hear("hello")


# --- Addresses


async def test_one_address_has_a_rate_of_upgrades(serve: Serve) -> None:
    site = await serve(Server.model_validate({"connect_rate": {"per_ip": 0.01, "burst": 2}}), game=CAT)
    await site.join("/game/one")
    assert await site.refused("/nowhere/one") == 404

    with pytest.raises(websockets.InvalidStatus) as refused:
        await site.join("/game/one")

    response = refused.value.response
    assert (response.status_code, response.body) == (429, b"too many connections a second from this address\n")
    assert 90 <= int(response.headers["Retry-After"]) <= 100
    assert site.gateway.status().refusals == {"connect_rate": 1, "unknown_app": 1}
    assert 'scalesocket_refusals_total{app="",reason="connect_rate"} 1.0' in (await site.get("/metrics"))[1]
    assert (await site.get("/health"))[0] == 200


async def test_a_rate_of_upgrades_is_the_clients_behind_a_trusted_proxy(serve: Serve) -> None:
    server = {"connect_rate": {"per_ip": 0.01, "burst": 1}, "trusted_proxies": ["127.0.0.0/8"]}
    site = await serve(Server.model_validate(server), game=CAT)

    async def status_of(client: str) -> int:
        try:
            await site.join("/game/one", additional_headers={"X-Forwarded-For": client})
        except websockets.InvalidStatus as error:
            return error.response.status_code
        return 101

    clients = ("192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "::ffff:192.0.2.2")
    assert [await status_of(client) for client in clients] == [101, 429, 101, 101, 429, 429]


@in_memory
async def test_an_edit_adds_and_removes_the_rate_of_upgrades(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    limited = Server.model_validate({"bind": "127.0.0.1:0", "connect_rate": {"per_ip": 0.01, "burst": 1}})
    apps = {"game": App(name="game", **CAT)}

    for _ in range(3):
        await site.join("/game/one")
    site.gateway.apply(Site(server=limited, apps=apps))
    await site.join("/game/one")
    assert await site.refused("/game/one") == 429
    site.gateway.apply(Site(apps=apps))
    await site.join("/game/one")


@in_memory
async def test_max_connections_per_ip_counts_ipv6_by_its_64(serve: MemoryServe) -> None:
    site = await serve(Server.model_validate({"max_connections_per_ip": 1, "trusted_proxies": ["127.0.0.0/8"]}), game=CAT)

    await site.join("/game/one", additional_headers={"X-Forwarded-For": "2001:db8::1"})

    assert await site.refused("/game/one", additional_headers={"X-Forwarded-For": "2001:db8::2"}) == 429
    await site.join("/game/one", additional_headers={"X-Forwarded-For": "2001:db8:0:1::2"})


@in_memory
async def test_one_address_has_max_connections_per_ip(serve: MemoryServe) -> None:
    site = await serve(Server(max_connections_per_ip=2), game=CAT)
    ann = await site.join("/game/one")
    await site.join("/game/two")

    assert await site.refused("/game/one") == 429
    assert refusals(site, "game") == {"too_many_from_address": 1}

    await ann.leave()
    await site.until(lambda: site.gateway.connections == 1)
    await site.join("/game/one")


@in_memory
async def test_behind_a_trusted_proxy_the_address_is_the_client_s(serve: MemoryServe) -> None:
    site = await serve(Server.model_validate({"max_connections_per_ip": 1, "trusted_proxies": ["127.0.0.0/8"]}), game=CAT)
    await site.join("/game/one", additional_headers={"X-Forwarded-For": "192.0.2.1"})

    await site.join("/game/one", additional_headers={"X-Forwarded-For": "192.0.2.2"})

    assert await site.refused("/game/one", additional_headers={"X-Forwarded-For": "192.0.2.1"}) == 429
    assert await site.refused("/game/one", additional_headers={"Forwarded": 'for="192.0.2.2:1234"'}) == 429


@in_memory
async def test_without_a_trusted_proxy_the_address_in_a_header_is_ignored(serve: MemoryServe) -> None:
    site = await serve(Server(max_connections_per_ip=1), game=CAT)
    await site.join("/game/one", additional_headers={"X-Forwarded-For": "192.0.2.1"})

    assert await site.refused("/game/one", additional_headers={"X-Forwarded-For": "192.0.2.2"}) == 429


# --- Draining


async def test_while_the_server_drains_upgrades_are_503_with_retry_after(serve: Serve) -> None:
    site = await serve(game={"command": program("stubborn"), "stop_timeout": 1.0})
    ann = await site.join("/game/one")
    await ann.hear("stubborn")
    drain = asyncio.create_task(site.service.drain())
    assert await ann.wait_closed() == (1001, "the server is shutting down")

    with pytest.raises(websockets.InvalidStatus) as refused:
        await site.join("/game/one")
    assert refused.value.response.status_code == 503
    assert int(refused.value.response.headers["Retry-After"]) > 0
    assert (await site.get("/health"))[0] == 200
    assert (await site.get("/ready"))[0] == 503

    await drain
    assert site.gateway.pools["game"].is_empty


async def test_refusals_are_counted_in_the_metrics(serve: Serve) -> None:
    site = await serve(game={**CAT, "max_clients": 1, "rooms": ("red",)})
    await site.join("/game/red")
    await (await site.join("/game/red")).wait_closed()
    await site.refused("/game/green")

    async with httpx.AsyncClient(trust_env=False) as browser:
        metrics = (await browser.get(f"http://127.0.0.1:{site.port}/metrics")).text

    for reason in ("room_full", "not_listed"):
        assert [line for line in metrics.splitlines() if f'reason="{reason}"' in line and line.endswith((" 1", " 1.0"))], metrics


async def test_the_rooms_api_lists_rooms_that_linger_and_not_those_that_stop(serve: Serve, tmp_path: Path) -> None:
    site = await serve(game={**CAT, "idle_timeout": 30.0}, brief={"command": program("alone", tmp_path / "lock", 0.3)})
    await (await site.join("/game/one")).leave()
    ann = await site.join("/brief/two")
    await ann.listen()
    await ann.leave()
    await site.until(lambda: site.gateway.connections == 0 and "two" not in site.gateway.pools["brief"].rooms)

    lingering = json.loads((await site.get("/game/api/rooms/"))[1])
    stopping = json.loads((await site.get("/brief/api/rooms/"))[1])

    assert [(room["name"], room["connections"]) for room in lingering] == [("one", 0)]
    assert stopping == []


# --- New rooms


def rate(**settings: float) -> dict[str, Any]:
    return {**CAT, "room_rate": settings}


@in_memory
async def test_rooms_over_the_rate_of_the_app_are_not_opened(serve: MemoryServe) -> None:
    site = await serve(game=rate(total=0.01, burst=2))
    await site.join("/game/one")
    await site.join("/game/two")

    eve = await site.join("/game/three")

    assert await eve.wait_closed() == (1013, "too many rooms are opened per second: try again later")
    assert refusals(site, "game") == {"room_rate": 1}
    assert site.gateway.pools["game"].rooms.keys() == {"one", "two"}


@in_memory
async def test_joining_an_open_room_takes_no_token(serve: MemoryServe) -> None:
    site = await serve(game=rate(total=0.01, per_ip=0.01, burst=2))
    for _ in range(5):
        await site.join("/game/one")

    bob = await site.join("/game/two")

    await bob.say("mine")
    await bob.hear("mine")


@in_memory
async def test_each_address_has_a_rate_of_new_rooms_and_an_ipv6_client_that_of_its_64(serve: MemoryServe) -> None:
    site = await serve(Server.model_validate({"trusted_proxies": ["127.0.0.0/8"]}), game=rate(per_ip=0.01))

    async def opens(room: str, address: str) -> bool:
        client = await site.join(f"/game/{room}", additional_headers={"X-Forwarded-For": address})
        is_in = room in site.gateway.pools["game"].rooms
        assert is_in or (await client.wait_closed())[0] == 1013
        return is_in

    tries = [("a", "192.0.2.1"), ("b", "192.0.2.1"), ("c", "192.0.2.2"), ("d", "2001:db8::1"), ("e", "2001:db8::2")]
    assert [await opens(room, address) for room, address in tries] == [True, False, True, True, False]


@in_memory
async def test_an_edit_adds_and_removes_the_rate_of_new_rooms(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    await site.join("/game/one")
    site.gateway.apply(Site(server=site.gateway.site.server, apps={"game": App(name="game", **rate(total=0.01))}))

    await site.join("/game/two")
    eve = await site.join("/game/three")
    assert (await eve.wait_closed())[0] == 1013
    site.gateway.apply(Site(server=site.gateway.site.server, apps={"game": App(name="game", **CAT)}))
    await site.join("/game/three")

    assert site.gateway.pools["game"].rooms.keys() == {"one", "two", "three"}


async def test_the_limit_on_new_rooms_holds_on_both_lanes_and_is_in_the_metrics(serve: Serve) -> None:
    site = await serve(game=rate(total=0.01))
    ann = await site.join("/game/one")
    await ann.say("open")
    await ann.hear("open")

    eve = await site.join("/game/two")

    assert (await eve.wait_closed())[0] == 1013
    assert 'scalesocket_refusals_total{app="game",reason="room_rate"} 1.0' in (await site.get("/metrics"))[1]
