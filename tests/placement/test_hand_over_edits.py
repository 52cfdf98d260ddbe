"""Connections between workers with different sites, or with their last descriptors."""

import asyncio

import pytest
import websockets

from scalesocket.config.model import Server
from tests.placement.conftest import ServeWorkers
from tests.placement.ways import CAT, Way, every_way, join_by, serve_way, wait_idle
from tests.raw import RawClient, upgrade

# --- Edits


@every_way
async def test_a_connection_admitted_by_a_newer_site_waits_for_that_edit(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    site.services[0].gateway.reload_state.advance(2, 0.0)
    joining = asyncio.create_task(join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder))
    await asyncio.sleep(0.1)
    assert not site.services[1].gateway.pools["chat"].rooms

    site.services[1].gateway.reload_state.advance(2, 0.0)

    ann = await joining
    await ann.say("hello")
    await ann.hear("hello")


@every_way
async def test_an_edit_that_never_comes_closes_the_connection_with_1013(
    serve_workers: ServeWorkers, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalesocket.server.owner.HOLD_TIMEOUT", 0.1)
    site = await serve_way(serve_workers, way, chat=CAT)
    site.services[0].gateway.reload_state.advance(2, 0.0)

    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)

    assert await ann.wait_closed() == (1013, "the server is busy: try again later")
    await wait_idle(site)


@every_way
async def test_a_connection_to_an_app_that_its_owner_does_not_have_is_closed_as_removed(
    serve_workers: ServeWorkers, way: Way
) -> None:
    site = await serve_way(serve_workers, way, chat=CAT, other=CAT)
    owner = site.services[1].gateway
    owner.apply(owner.site.model_copy(update={"apps": {"other": owner.site.apps["other"]}}))

    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)

    assert await ann.wait_closed() == (1001, "the app was removed")
    await wait_idle(site)


@every_way
async def test_the_settings_of_the_owner_count(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    owner = site.services[1].gateway
    small = owner.site.apps["chat"].model_copy(update={"max_message": 10})
    owner.apply(owner.site.model_copy(update={"apps": {"chat": small}}))

    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)
    await ann.say("more than ten")

    assert (await ann.wait_closed())[0] == 1009


# --- Descriptors


@every_way
async def test_a_connection_with_one_of_the_last_descriptors_is_refused(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    site.services[1].connections.first_reserved = 0
    site.services[1].connections._first_kept = lambda: 1_000_000  # type: ignore[method-assign]

    if way != "pump":  # it is answered before
        ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)
        assert (await ann.wait_closed())[0] == 1013
    else:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)
        assert refused.value.response.status_code == 503
    assert site.services[1].gateway.refusals == {"descriptors": 1}
    await wait_idle(site)


@pytest.mark.parametrize("way", ["pump", "relay"])
async def test_without_descriptors_for_a_pair_an_upgrade_is_503(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    monkey = pytest.MonkeyPatch()

    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkey.context() as patch:
        for module in ("hand_over", "relayed_upgrade"):
            patch.setattr(f"scalesocket.server.{module}.open_pair", fail)
        with pytest.raises(websockets.InvalidStatus) as refused:
            await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)

    assert refused.value.response.status_code == 503
    assert site.services[0].gateway.pools["chat"].refusals == {"descriptors": 1}


async def test_the_last_places_of_an_address_are_decided_before_the_upgrade_is_answered(serve_workers: ServeWorkers) -> None:
    site = await serve_workers(Server(max_connections_per_ip=3), chat=CAT)
    room = site.name("chat", 1)
    clients = [await RawClient.connect(site.port) for _ in range(10)]

    for client in clients:  # all are admitted before the first of them joins
        client.send(upgrade(f"/chat/{room}"))

    statuses = sorted([(await client.read_head()).split()[1] for client in clients])
    assert statuses == ["101"] * 3 + ["429"] * 7
    assert sum(service.gateway.pools["chat"].refusals["too_many_from_address"] for service in site.services) == 7
    for client in clients:
        await client.close()
    await site.wait_no_rooms()
    await wait_idle(site)
