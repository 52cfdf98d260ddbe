"""Sentinel: after a failover, nodes use the new primary, and their rooms go on."""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from scalesocket.cluster.engine import Engine
from scalesocket.cluster.link import EngineUnavailableError
from scalesocket.cluster.records import Owned
from scalesocket.config.urls import parse_sentinels
from tests.cluster.engines import SERVER, ClusterOfTests, EngineProcess, until
from tests.cluster.test_claims import win
from tests.cluster.test_lease import leased
from tests.ports import free_port


@pytest.fixture
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    replica = EngineProcess(tmp_path_factory.mktemp("replica"))
    yield replica
    replica.close()


@contextmanager
def sentinel_of(engine: EngineProcess) -> Iterator[int]:
    """A sentinel that decides alone, and soon. Returns its port."""
    assert SERVER is not None
    port = free_port()
    file = engine.folder / "sentinel.conf"
    file.write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {engine.port} 1\n"
        "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000\n"
    )
    with (engine.folder / "sentinel.log").open("ab") as log:
        process = subprocess.Popen([SERVER, str(file), "--sentinel"], stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


async def test_after_a_failover_nodes_use_the_new_primary_and_keep_their_rooms(
    engine: EngineProcess, replica: EngineProcess
) -> None:
    engine.start()
    replica.start("--replicaof", "127.0.0.1", str(engine.port))
    with sentinel_of(engine) as port:
        with redis.Redis(port=port, decode_responses=True) as sentinel:
            await until(lambda: asyncio.to_thread(count_replicas, sentinel), bool)
        url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/main"
        cluster = ClusterOfTests(engine, "games")
        async with leased(cluster, "a", seconds=10.0, engine=url) as ann:
            fence = await win(ann.directory)
            assert ann.directory.session is not None
            inc = ann.directory.session.inc

            engine.kill()

            found = await until(lambda: ann.directory.find("chat", "lobby"), lambda found: isinstance(found, Owned), within=15.0)
            assert isinstance(found, Owned)
            assert (found.owner.inc, found.fence) == (inc, fence)
            assert ann.lease.lost == 0
            assert replica.client.role()[0] == "master"
            word = ann.directory.last_word()
            assert word is not None
            assert word.address == ("127.0.0.1", replica.port)


def count_replicas(sentinel: "redis.Redis[str]") -> int:
    try:
        return len([one for one in sentinel.sentinel_slaves("main") if not one["is_sdown"]])
    except redis.RedisError:  # it is starting
        return 0


async def test_sentinels_that_do_not_answer_or_do_not_know_the_service_are_named(engine: EngineProcess) -> None:
    engine.start()
    with sentinel_of(engine) as port:
        urls = {
            f"redis+sentinel://127.0.0.1:{free_port()}/main": "no sentinel answers: error 111",
            f"redis+sentinel://127.0.0.1:{port}/other": "no sentinel knows 'other'",
        }
        for url, fault in urls.items():
            connection = Engine(url, name="test", patience=2.0)

            async def ask(connection: Engine = connection) -> str:
                try:
                    await connection.call("PING", timeout=2.0)
                except EngineUnavailableError as error:
                    return str(error)
                return ""

            assert parse_sentinels(url).service in url
            await until(ask, lambda text, fault=fault: text.startswith(fault))
            await connection.close()
