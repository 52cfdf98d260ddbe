"""The gateway: limits at the admission and the join, and the shutdown."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from scalesocket.admission.control import Admission
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.config.model import Server, Site
from scalesocket.errors import ADDRESS_FULL, APP_REMOVED
from scalesocket.server.general import GeneralClient
from scalesocket.server.service import Service, open_service
from scalesocket.wire.handshake import parse_request
from tests.playing import Playground, program, site_of, until
from tests.raw import upgrade

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(site: Site) -> AsyncIterator[Service]:
    spawner = SpawnerClient()
    spawner.start()
    try:
        async with open_service(site, spawner=spawner) as service:
            yield service
    finally:
        spawner.close()


def guest(admission: Admission) -> GeneralClient:
    """A client without a connection."""
    return GeneralClient(admission, cast(Any, None), cast(Any, None))


async def test_the_limit_of_an_address_holds_for_clients_admitted_at_the_same_time() -> None:
    """On one HTTP/2 connection a peer may delay the responses to many upgrades, and then join with all of them."""
    site = site_of({"game": {"command": ["cat"]}}, Server(max_connections_per_ip=2))
    async with serving(site) as service:
        request = parse_request(
            upgrade("/game/one").removesuffix(b"\r\n\r\n"), peer=("192.0.2.1", 4), local=None, is_secure=False
        )
        admissions = [service.gateway.admission.admit(request) for _ in range(4)]

        joined = [admission.join(guest(admission)) for admission in admissions if isinstance(admission, Admission)]

        assert len(joined) == 4
        assert joined == [None, None, ADDRESS_FULL, ADDRESS_FULL]
        service.gateway.cut()


async def test_a_client_admitted_before_an_edit_removed_the_target_is_closed(tmp_path: Path) -> None:
    async with serving(site_of({"game": {"command": ["cat"], "static": tmp_path}})) as service:
        request = parse_request(upgrade("/game/one").removesuffix(b"\r\n\r\n"), peer=None, local=None, is_secure=False)
        admission = service.gateway.admission.admit(request)
        assert isinstance(admission, Admission)

        service.gateway.apply(site_of({"game": {"static": tmp_path}}))

        assert admission.join(guest(admission)) is APP_REMOVED
        assert service.gateway.pools["game"].is_empty


@pytest.mark.timeout(20)
@pytest.mark.parametrize("is_forced", [False, True])
async def test_a_download_that_is_not_read_does_not_delay_the_shutdown(tmp_path: Path, is_forced: bool) -> None:
    (tmp_path / "large").write_bytes(bytes(30_000_000))
    site = site_of({"game": {"command": ["cat"], "static": tmp_path}})
    async with serving(site) as service:
        port = int(service.listeners.addresses[0].rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /game/large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.transport.pause_reading()
        began = asyncio.get_running_loop().time()
        if is_forced:
            service.cut()
        else:
            await service.drain()

    assert asyncio.get_running_loop().time() - began < 5.0
    writer.transport.abort()


async def test_a_site_that_is_cancelled_repeatedly_waits_for_its_backends() -> None:
    site = site_of({"game": {"command": program("stubborn"), "stop_timeout": 0.5}})
    spawner = SpawnerClient()
    spawner.start()
    is_open = asyncio.Event()

    async def play() -> None:
        async with open_service(site, spawner=spawner) as service:
            ann = await Playground(service, "express").join("/game/one")
            await ann.hear("stubborn")
            is_open.set()
            await asyncio.Event().wait()

    serving = asyncio.create_task(play())
    try:
        await is_open.wait()
        while not serving.done():
            serving.cancel()
            await asyncio.wait((serving,), timeout=0.1)
        assert not spawner.groups
    finally:
        spawner.close()


async def test_addresses_are_forgotten_when_their_buckets_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalesocket.admission.control.SWEEP_INTERVAL", 0.01)
    server = Server.model_validate({"connect_rate": {"per_ip": 20, "burst": 2}})
    async with serving(site_of({"game": {"command": ["cat"]}}, server)) as service:
        for number in range(10):
            request = parse_request(
                upgrade("/game/one").removesuffix(b"\r\n\r\n"), peer=(f"192.0.2.{number}", 4), local=None, is_secure=False
            )
            service.gateway.admission.admit(request)
        assert service.gateway.admission._addresses._buckets

        await until(lambda: not service.gateway.admission._addresses._buckets)
