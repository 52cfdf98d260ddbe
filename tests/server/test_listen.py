"""Listening sockets: errors, edits and cleanup."""

import asyncio
import os
import resource
import socket
import ssl
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scalesocket.config.certificates import Pair
from scalesocket.config.model import Server, Tls
from scalesocket.server import accept
from scalesocket.server import tls as server_tls
from scalesocket.server.addresses import ListenError, resolve
from scalesocket.server.bind import bind_all, start_listening
from scalesocket.server.listen import fixed_address
from scalesocket.server.tls import TlsAcceptor, load_tls
from tests.conftest import Serve
from tests.raw import RawClient, upgrade


async def open_socket(bind: str) -> socket.socket:
    """A listening socket of another server."""
    (sock,) = bind_all(bind, await resolve(bind)).values()
    start_listening(sock)
    return sock


async def test_an_address_in_use_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenError, match=f"server.bind: can't listen at 127.0.0.1:{port}: address already in use"):
            await open_socket(f"127.0.0.1:{port}")


async def test_a_host_may_be_given_by_name() -> None:
    with await open_socket("localhost:0") as sock:
        assert sock.getsockname()[0] in ("127.0.0.1", "::1")


async def test_a_host_of_another_machine_is_refused() -> None:
    with pytest.raises(ListenError, match="cannot assign requested address"):
        await open_socket("192.0.2.1:0")


async def test_the_unix_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "site.sock"
    (await open_socket(f"unix:{path}")).close()
    assert path.exists()

    (await open_socket(f"unix:{path}")).close()


async def test_the_unix_socket_of_a_running_server_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "site.sock"
    with await open_socket(f"unix:{path}"), pytest.raises(ListenError, match="in use"):
        await open_socket(f"unix:{path}")


async def test_the_unix_socket_of_a_busy_server_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "site.sock"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as queued, socket.socket(socket.AF_UNIX) as more:
        server.bind(str(path))
        server.listen(0)
        queued.connect(str(path))
        more.setblocking(False)
        with pytest.raises(BlockingIOError):  # the queue is full
            more.connect(str(path))

        with pytest.raises(ListenError, match="in use"):
            await open_socket(f"unix:{path}")


async def test_a_regular_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "site.sock"
    path.write_text("precious")

    with pytest.raises(ListenError):
        await open_socket(f"unix:{path}")

    assert path.read_text() == "precious"


def test_an_invalid_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "certificate.pem").write_text("rubbish")
    (tmp_path / "key.pem").write_text("rubbish")

    with pytest.raises(ListenError, match=r"server.tls.certificate: .*certificate.pem contains no certificate"):
        load_tls(Tls(certificate=tmp_path / "certificate.pem", key=tmp_path / "key.pem"))


async def test_a_site_can_have_several_listeners(serve_express: Serve, tmp_path: Path) -> None:
    binds = ["127.0.0.1:0", "[::1]:0", f"unix:{tmp_path / 'site.sock'}"]

    site = await serve_express(Server.model_validate({"bind": binds}), game={"command": ["cat"]})

    v4, v6, unix = site.service.listeners.addresses
    assert v4.startswith("127.0.0.1:")
    assert v6.startswith("[::1]:")
    assert unix == f"unix:{tmp_path / 'site.sock'}"
    for address in (v4, v6):
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b'{"status":"ok"}' in await reader.read()
        writer.close()


async def test_ipv6_clients_are_counted_by_address_too(serve_express: Serve) -> None:
    site = await serve_express(Server(bind=("[::1]:0",), max_connections_per_ip=1), game={"command": ["cat"]})

    async def try_join() -> tuple[RawClient, str]:
        client = RawClient(*await asyncio.open_connection("::1", site.port))
        site.raw_clients.append(client)
        client.send(upgrade("/game/one"))
        return client, (await client.read_head()).split(" ")[1]

    ann, first = await try_join()
    _, second = await try_join()
    await ann.close()
    await site.until(lambda: site.gateway.connections == 0)
    _, third = await try_join()

    assert (first, second, third) == ("101", "429", "101")


async def test_a_unix_socket_is_removed_at_shutdown(serve_express: Serve, tmp_path: Path) -> None:
    path = tmp_path / "site.sock"
    site = await serve_express(Server.model_validate({"bind": f"unix:{path}"}), game={"command": ["cat"]})
    assert stat.S_ISSOCK(path.stat().st_mode)

    site.service.listeners.close()

    assert not path.exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "127.1"])
async def test_an_edit_can_replace_an_address_by_an_overlapping_one(serve_express: Serve, host: str) -> None:
    """The first edit wants the same port at other addresses, the second wants the first address again.

    Connections of before stay, those of after are accepted, and in between no other server gets at the port.
    """
    site = await serve_express(Server(bind=("127.0.0.1:0",)), game={"command": ["cat"]})
    listeners, port = site.service.listeners, site.port
    before = await site.join("/game/one")

    for bind in (f"{host}:{port}", f"127.0.0.1:{port}"):
        change = await listeners.prepare(Server(bind=(bind,)))
        with pytest.raises(ListenError, match="in use"):
            await open_socket(f"127.0.0.1:{port}")
        change.commit()
        with pytest.raises(ListenError, match="in use"):
            await open_socket(f"127.0.0.1:{port}")

        after = await site.join("/game/one")
        await after.say("still here")
        await before.hear("still here")
        await after.leave()
    closed = [told["address"] for told in serve_express.logged("stopped listening")]
    assert closed[:1] == ([] if host == "127.1" else [f"127.0.0.1:{port}"])  # the same address, spelled differently


async def test_an_overlapping_edit_that_is_taken_back_changes_nothing(serve_express: Serve) -> None:
    site = await serve_express(Server(bind=("127.0.0.1:0",)), game={"command": ["cat"]})
    port = site.port

    for host in ("0.0.0.0", "127.1"):
        (await site.service.listeners.prepare(Server(bind=(f"{host}:{port}",)))).roll_back()

    assert site.service.listeners.addresses == [f"127.0.0.1:{port}"]
    await site.join("/game/one")


def longest_queue() -> int:
    return int(Path("/proc/sys/net/core/somaxconn").read_text())


async def test_the_backlog_is_long(serve_express: Serve) -> None:
    site = await serve_express(Server(bind=("127.0.0.1:0",)), game={"command": ["cat"]})
    (listener,) = site.service.listeners._open.values()

    # For a listening socket, tcpi_sacked is the maximum length of its queue.
    queue = struct.unpack("=8x6I", listener.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32))[5]

    assert queue == min(4096, longest_queue())


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    """Take every free descriptor of this process away, within the block."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    first_free = os.open("/", os.O_PATH)
    os.close(first_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def ask_for_health(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    client.setblocking(False)
    await loop.sock_sendall(client, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await loop.sock_recv(client, 1000)).startswith(b"HTTP/1.1 200")


async def test_running_out_of_descriptors_is_logged_once_and_delays_connections_little(serve_express: Serve) -> None:
    site = await serve_express(Server(bind=("127.0.0.1:0",)), game={"command": ["cat"]})
    with socket.socket() as client:
        with no_free_descriptor():
            client.connect(("127.0.0.1", site.port))
            await site.until(lambda: bool(serve_express.logged("connections not accepted")))
            await asyncio.sleep(0.1)  # at least one more attempt

        async with asyncio.timeout(5 * accept.LONGEST_PAUSE):
            await ask_for_health(client)
        assert len(serve_express.logged("connections not accepted")) == 1


@pytest.mark.one_process("each process has descriptors of its own")
async def test_a_freed_descriptor_is_used_at_once(serve_express: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept, "FIRST_PAUSE", 3600.0)
    site = await serve_express(Server(bind=("127.0.0.1:0",)), game={"command": ["cat"]})
    ann = await site.join_raw("/game/one")
    with socket.socket() as client, no_free_descriptor():
        client.connect(("127.0.0.1", site.port))
        await site.until(lambda: bool(serve_express.logged("connections not accepted")))

        ann.cut()

        await site.until(lambda: not site.service.connections.paused)
        await ask_for_health(client)


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Path]:
    files = {"certificate": tmp_path / "certificate.pem", "key": tmp_path / "key.pem"}
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(files["certificate"]), "-keyout", str(files["key"])]
    subprocess.run(words, check=True, capture_output=True)
    return files


@pytest.mark.one_process("each worker loads them")
async def test_certificates_are_loaded_in_a_thread(
    serve_express: Serve, tls: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def load(tls: Tls, pair: Pair | None) -> ssl.SSLContext:
        threads.append(threading.current_thread())
        return load_tls(tls, pair)

    monkeypatch.setattr(server_tls, "load_tls", load)

    await serve_express(Server.model_validate({"bind": "127.0.0.1:0", "tls": tls}), game={"command": ["cat"]})

    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_connections_in_a_tls_handshake_count(serve_express: Serve, tls: dict[str, Path]) -> None:
    """Twenty clients connect over TLS and send nothing; the limit is six, so the others are cut.

    When they leave, new clients are accepted.
    """
    settings = Server.model_validate({"bind": "127.0.0.1:0", "tls": tls, "max_connections": 4})
    site = await serve_express(settings, game={"command": ["cat"]})
    silent = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(20)]

    await site.until(lambda: site.gateway.refusals["too_many_connections"] == 14)
    for _, writer in silent:
        writer.close()
    await site.until(lambda: not site.service.connections.tls_handshakes)

    reader, writer = await asyncio.open_connection(
        "127.0.0.1", site.port, ssl=ssl.create_default_context(cafile=tls["certificate"])
    )
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b'{"status":"ok"}' in await reader.read()
    writer.close()


@pytest.mark.parametrize("turns", range(4))
async def test_no_connection_is_lost_when_a_listener_with_tls_is_replaced(
    serve_express: Serve, tls: dict[str, Path], turns: int
) -> None:
    """At any moment, connections are served by the old listener, or accepted by the new one."""
    site = await serve_express(game={"command": ["cat"]})
    context = ssl.create_default_context(cafile=tls["certificate"])
    ours = load_tls(Tls(**tls))
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.setblocking(False)
        servers = [TlsAcceptor(listener, site.service.connections, ours)]
        connections = []
        for _ in range(20):
            connections.append(socket.create_connection(listener.getsockname()))
            connections[-1].setblocking(False)
            for _ in range(turns):
                await asyncio.sleep(0)
            servers.pop().stop()
            servers.append(TlsAcceptor(listener, site.service.connections, ours))

        for connection in connections:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(sock=connection, ssl=context, server_hostname="127.0.0.1")
                writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert b'{"status":"ok"}' in await reader.read()
                writer.close()
        servers.pop().stop()


def test_a_listener_has_one_local_address_unless_it_is_a_wildcard(tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket() as many, socket.socket(socket.AF_UNIX) as unix:
        one.bind(("127.0.0.1", 0))
        many.bind(("0.0.0.0", 0))
        unix.bind(os.fspath(tmp_path / "unix"))

        assert fixed_address(one) == one.getsockname()
        assert fixed_address(many) is None
        assert fixed_address(unix) is None
