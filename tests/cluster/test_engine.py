"""The connection to the engine: calls are answered in time or fail, whatever the engine does."""

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from scalesocket.cluster import scripts
from scalesocket.cluster.engine import Engine
from scalesocket.cluster.link import EngineError, EngineRefusedError, EngineUnavailableError
from scalesocket.cluster.records import Load, Owned, Renewed, Won
from scalesocket.cluster.scripts import Script
from tests.cluster.engines import ClusterOfTests, EngineProcess, open_session, until

PASSWORD = "pass-of-the-engine"


@asynccontextmanager
async def connected(url: str, *, patience: float = 2.0) -> AsyncIterator[Engine]:
    engine = Engine(url, name="scalesocket:test", patience=patience)
    try:
        yield engine
    finally:
        await engine.close()


async def ping(engine: Engine, timeout: float = 2.0) -> bool:
    return bool(await engine.call("PING", timeout=timeout) == b"PONG")


async def test_many_calls_share_one_connection_and_each_gets_its_own_answer(shared_engine: EngineProcess) -> None:
    async with connected(shared_engine.url) as engine:
        answers = await asyncio.gather(*(engine.call("ECHO", at, timeout=2.0) for at in range(2000)))

        assert answers == [str(at).encode() for at in range(2000)]
        names = [client["name"] for client in shared_engine.client.client_list()]
        assert names.count("scalesocket:test") == 1


async def test_an_error_is_of_its_own_call_alone(shared_engine: EngineProcess) -> None:
    async with connected(shared_engine.url) as engine:
        before, wrong, after = await asyncio.gather(
            engine.call("ECHO", 1, timeout=2.0),
            engine.call("NONSENSE", timeout=2.0),
            engine.call("ECHO", 2, timeout=2.0),
            return_exceptions=True,
        )

        assert (before, after) == (b"1", b"2")
        assert isinstance(wrong, EngineRefusedError)


async def test_a_caller_that_is_cancelled_does_not_shift_the_answers_of_others(shared_engine: EngineProcess) -> None:
    async with connected(shared_engine.url) as engine:
        await ping(engine)
        calls = [asyncio.create_task(engine.call("ECHO", at, timeout=2.0)) for at in range(10)]
        await asyncio.sleep(0)

        for call in calls[::2]:
            call.cancel()

        assert await asyncio.gather(*calls[1::2]) == [b"1", b"3", b"5", b"7", b"9"]


async def test_all_calls_fail_at_once_when_the_engine_is_killed_and_succeed_when_it_is_back(engine: EngineProcess) -> None:
    engine.start()
    async with connected(engine.url) as connection:
        await ping(connection)
        engine.pause()
        calls = [asyncio.create_task(ping(connection, timeout=30.0)) for _ in range(20)]
        await asyncio.sleep(0)

        engine.kill()

        async with asyncio.timeout(20.0):
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {EngineUnavailableError}
        begin = time.monotonic()
        with pytest.raises(EngineUnavailableError, match="connect"):
            await ping(connection)
        assert time.monotonic() - begin < 10.0
        assert not connection.is_up
        engine.start()
        assert await until(lambda: ping(connection), bool)
        assert connection.is_up


async def test_a_call_to_an_engine_that_stands_still_fails_at_its_deadline(engine: EngineProcess) -> None:
    engine.start()
    async with connected(engine.url, patience=0.3) as connection:
        await ping(connection)
        engine.pause()

        for _ in range(3):  # the last one has to connect first
            begin = time.monotonic()
            with pytest.raises(EngineUnavailableError, match=r"no answer (within 0.2|for 0.3) s"):
                await ping(connection, timeout=0.2)
            assert 0.05 < time.monotonic() - begin < 5.0

        engine.resume()
        assert await until(lambda: ping(connection), bool)


async def test_a_slow_engine_keeps_its_connection_and_its_late_answers_go_to_the_calls_that_still_wait(
    engine: EngineProcess,
) -> None:
    engine.start()
    async with connected(engine.url, patience=1.0) as connection:
        await ping(connection)
        connections = engine.client.info("stats")["total_connections_received"]
        engine.client.execute_command("CLIENT", "PAUSE", "400", "ALL")

        late = asyncio.create_task(connection.call("ECHO", "late", timeout=2.0))
        with pytest.raises(EngineUnavailableError, match=r"no answer within 0.1 s"):
            await connection.call("ECHO", "too late", timeout=0.1)

        assert await late == b"late"
        assert await connection.call("ECHO", "next", timeout=2.0) == b"next"
        assert engine.client.info("stats")["total_connections_received"] == connections


async def test_a_connection_without_any_answer_is_given_up_and_its_requests_in_a_pause_are_not_done_later(
    engine: EngineProcess,
) -> None:
    engine.start()
    async with connected(engine.url, patience=0.1) as connection:
        await ping(connection)
        engine.client.execute_command("CLIENT", "PAUSE", "400", "WRITE")

        with pytest.raises(EngineUnavailableError, match=r"no answer for 0.1 s"):
            await connection.call("INCR", "counter", timeout=2.0)

        await asyncio.to_thread(engine.client.set, "over", "the pause")
        assert await until(lambda: connection.call("INCR", "counter", timeout=2.0), bool) == 1


async def test_what_was_not_sent_before_a_connection_is_given_up_is_never_sent(engine: EngineProcess) -> None:
    engine.start()
    async with connected(engine.url, patience=0.2) as connection:
        await ping(connection)
        engine.pause()

        with pytest.raises(EngineUnavailableError):
            await connection.call("SET", "large", b"x" * 20_000_000, timeout=2.0)

        engine.resume()
        for _ in range(20):
            assert await until(lambda: ping(connection), bool)
        assert engine.client.exists("large") == 0


async def test_scripts_run_in_an_engine_that_has_not_seen_or_has_forgotten_them(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann:
        cluster.engine.client.script_flush()

        assert await ann.renew(Load()) == Renewed()
        assert isinstance(await ann.claim("chat", "lobby"), Won)
    found = [script for script in vars(scripts).values() if isinstance(script, Script)]
    assert len({script.digest for script in found}) == len(found) == 11
    for script in found:
        assert cluster.engine.client.script_load(script.text) == script.digest


async def test_a_wrong_password_is_a_fault_that_does_not_show_it(engine: EngineProcess) -> None:
    engine.start()
    engine.client.config_set("requirepass", PASSWORD)
    url = engine.url.replace("://", f"://:{PASSWORD}x@")
    async with connected(url) as connection:
        with pytest.raises(EngineUnavailableError, match="invalid username-password pair") as failure:
            await ping(connection)
        assert PASSWORD not in str(failure.value) + repr(connection)
    async with connected(url.replace(f"{PASSWORD}x", PASSWORD)) as connection:
        assert await ping(connection)


async def test_a_user_needs_the_rights_that_the_docs_name(engine: EngineProcess) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    rights = docs.partition("the user needs `")[2].partition("`")[0].replace("NAME", "games")
    engine.start()
    engine.client.execute_command("ACL", "SETUSER", "node", "on", f">{PASSWORD}", "resetkeys", "-@all", *rights.split())
    cluster = ClusterOfTests(engine, "games")

    async with cluster.node("a", engine=engine.url.replace("://", f"://node:{PASSWORD}@")) as ann:
        assert isinstance(await ann.claim("chat", "lobby"), Won)
        assert await ann.renew(Load()) == Renewed()
        assert await ann.listing.put_ticket(b"hash", b"who", 1.0)
        assert await ann.listing.take_ticket(b"hash") == b"who"
        assert [room.name.room for room in await ann.listing.rooms("chat")] == ["lobby"]
        assert await ann.listing.forget("a") is not None


async def test_the_engine_may_listen_on_a_unix_socket(engine: EngineProcess) -> None:
    socket = engine.folder / "redis.sock"
    engine.start("--unixsocket", str(socket))
    cluster = ClusterOfTests(engine, "games")

    async with cluster.node("a", engine=f"unix://{socket}?db=1") as ann:
        await open_session(ann)

    assert engine.client.info("keyspace")["db1"]["keys"] > 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
async def test_the_certificate_of_the_engine_is_verified(engine: EngineProcess) -> None:
    key, certificate = engine.folder / "key.pem", engine.folder / "certificate.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    await anyio.run_process([*request, *names, "-keyout", str(key), "-out", str(certificate)])
    engine.start(
        "--tls-port",
        str(engine.tls_port),
        "--tls-cert-file",
        str(certificate),
        "--tls-key-file",
        str(key),
        "--tls-ca-cert-file",
        str(certificate),
        "--tls-auth-clients",
        "no",
    )
    trusted = f"?ssl_ca_certs={certificate}"

    async with connected(f"rediss://localhost:{engine.tls_port}/0{trusted}") as connection:
        assert await ping(connection)
    for url in (f"rediss://localhost:{engine.tls_port}/0", f"rediss://127.0.0.1:{engine.tls_port}/0{trusted}"):
        async with connected(url) as connection:
            with pytest.raises(EngineUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
                await ping(connection)


async def test_an_engine_that_has_become_a_replica_is_left_so_that_its_address_is_looked_up_again(engine: EngineProcess) -> None:
    engine.start()
    async with connected(engine.url) as connection:
        await connection.call("INCR", "counter", timeout=2.0)
        engine.client.execute_command("REPLICAOF", "127.0.0.1", str(engine.tls_port))

        with pytest.raises(EngineUnavailableError, match="write against a read only replica"):
            await connection.call("INCR", "counter", timeout=2.0)

        assert not connection.is_up
        engine.client.execute_command("REPLICAOF", "NO", "ONE")
        assert await until(lambda: connection.call("INCR", "counter", timeout=2.0), bool) == 2


async def test_a_connection_that_was_closed_fails_all_calls(shared_engine: EngineProcess) -> None:
    async with connected(shared_engine.url) as engine:
        await ping(engine)

    with pytest.raises(EngineUnavailableError, match="closed"):
        await ping(engine)


async def test_something_else_at_the_address_of_the_engine_is_a_fault(shared_engine: EngineProcess) -> None:
    async def chat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(chat, "127.0.0.1", 0)
    async with server, connected(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}") as engine:
        with pytest.raises(EngineUnavailableError):
            await ping(engine)


@pytest.mark.parametrize(
    ("key", "value", "default", "fault"),
    [
        ("min-replicas-to-write", "1", "0", "NOREPLICAS Not enough good replicas to write"),
        ("maxmemory", "1", "0", "command not allowed when used memory > 'maxmemory'"),
    ],
)
async def test_an_engine_that_refuses_to_write_changes_nothing_and_is_used_again(
    cluster: ClusterOfTests, key: str, value: str, default: str, fault: str
) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        assert isinstance(won := await ann.claim("chat", "lobby"), Won)
        before = cluster.read("engine"), cluster.engine.keys(cluster.name)
        client = cluster.engine.client
        client.config_set(key, value)
        try:
            for work in (ann.claim("chat", "other"), ann.renew(Load()), bob.claim("chat", "other")):
                with pytest.raises(EngineError, match=re.escape(fault)):
                    await work
            assert (cluster.read("engine"), cluster.engine.keys(cluster.name)) == before
        finally:
            client.config_set(key, default)

        assert await ann.renew(Load()) == Renewed()
        found = await bob.claim("chat", "lobby")
        assert isinstance(found, Owned)
        assert found.fence == won.fence


async def test_an_answer_that_no_script_gives_is_a_fault(cluster: ClusterOfTests, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster.node("a") as ann:
        for answer in (b"OK", None, [], [1], 5):

            async def call(*words: object, answer: object = answer, timeout: float) -> object:
                return answer

            monkeypatch.setattr(ann._lease_engine, "call", call)

            with pytest.raises(EngineError, match="is this the address of an engine"):
                await ann.renew(Load())

        monkeypatch.undo()
        assert await ann.renew(Load()) == Renewed()
