"""Preparations of an edit have no effect before the commit, and none at all when they are rolled back."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from scalesocket.config.model import Server, Site, Tls
from scalesocket.config.plan import Plan
from scalesocket.errors import ScalesocketError
from scalesocket.reload.preparation import Preparation
from scalesocket.reload.reloader import ReloadError
from scalesocket.server import listen as listen_module
from scalesocket.server.addresses import ListenError
from scalesocket.server.listen import Listener
from tests.conftest import Serve
from tests.playing import DEADLINE, Playground
from tests.reload.editing import CHAT, SERVER, Edited, open_edited

REQUEST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
TLS = 'tls = { certificate = "site.pem", key = "site.key" }\n'


@pytest.fixture(autouse=True)
def certificate(tmp_path: Path) -> None:
    wanted = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    files = ["-out", str(tmp_path / "site.pem"), "-keyout", str(tmp_path / "site.key")]
    subprocess.run(["openssl", *wanted.split(), *files], check=True, capture_output=True)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


async def request(port: int, *, tls: bool = False) -> bytes:
    """The first line of an answer; empty for none."""
    context = ssl._create_unverified_context() if tls else None
    try:
        async with asyncio.timeout(DEADLINE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(REQUEST)
            answer = await reader.readline()
            writer.close()
    except ConnectionResetError:
        return b""
    return answer.rstrip()


class Slow:
    """A step of preparing that waits until it may go on."""

    def __init__(self, error: str | None = None) -> None:
        self.error = error
        self.is_reached = asyncio.Event()
        self.may_end = asyncio.Event()

    async def prepare(self, site: Site, plan: Plan) -> Preparation:
        self.is_reached.set()
        async with asyncio.timeout(DEADLINE):
            await self.may_end.wait()
        if self.error:
            raise ScalesocketError(self.error)
        return self

    def commit(self) -> None:
        pass

    def roll_back(self) -> None:
        pass


@asynccontextmanager
async def preparing(file: Path, text: str, slow: Slow, *, dry_run: bool = False) -> AsyncIterator[Edited]:
    """Serve a site and prepare an edit of it up to its last step; the edit ends with the block."""
    async with open_edited(file, SERVER + CHAT, prepare=[slow.prepare], is_watching=False) as edited:
        edited.write(text)
        reload = asyncio.create_task(edited.reloader.reload("test", dry_run=dry_run))
        async with asyncio.timeout(DEADLINE):
            await slow.is_reached.wait()
        yield edited
        slow.may_end.set()
        if slow.error:
            with pytest.raises(ReloadError, match=slow.error):
                await reload
        else:
            await reload


@pytest.mark.parametrize("end", ["applied", "dry run", "taken back"])
async def test_requests_are_answered_without_tls_while_tls_is_prepared(tmp_path: Path, anyio_backend: object, end: str) -> None:
    slow = Slow("no place" if end == "taken back" else None)
    text = SERVER + TLS + CHAT
    async with preparing(tmp_path / "site.toml", text, slow, dry_run=end == "dry run") as edited:
        port = edited.playground.port

        answers = [await request(port) for _ in range(200)]

        assert answers == [b"HTTP/1.1 200"] * 200


@pytest.mark.parametrize("end", ["applied", "dry run", "taken back"])
async def test_a_new_address_accepts_no_connection_before_the_commit(
    tmp_path: Path, anyio_backend: object, free_port: int, end: str
) -> None:
    slow = Slow("no place" if end == "taken back" else None)
    text = SERVER.replace('"127.0.0.1:0"', f'["127.0.0.1:0", "127.0.0.1:{free_port}", "unix:new.sock"]') + CHAT
    new = tmp_path / "new.sock"

    def try_both() -> list[str]:
        found = []
        for family, name in ((socket.AF_INET, ("127.0.0.1", free_port)), (socket.AF_UNIX, str(new))):
            with socket.socket(family) as client:
                client.settimeout(DEADLINE)
                try:
                    client.connect(name)
                    found.append("accepted")
                except (ConnectionRefusedError, FileNotFoundError) as error:
                    found.append(type(error).__name__)
        return found

    async with open_edited(tmp_path / "site.toml", SERVER + CHAT, prepare=[slow.prepare], is_watching=False) as edited:
        edited.write(text)
        reload = asyncio.create_task(edited.reloader.reload("test", dry_run=end == "dry run"))
        async with asyncio.timeout(DEADLINE):
            await slow.is_reached.wait()
        assert try_both() == ["ConnectionRefusedError"] * 2
        with pytest.raises(OSError, match="in use"):  # the server has bound it
            socket.create_server(("127.0.0.1", free_port))
        slow.may_end.set()
        await asyncio.wait([reload])

        assert try_both() == (["accepted"] * 2 if end == "applied" else ["ConnectionRefusedError", "FileNotFoundError"])
        assert (reload.exception() is not None) is (end == "taken back")
        socket.create_server(("127.0.0.2", free_port)).close()


# -- connections in the kernel's queue at the commit


def queue(port: int, number: int = 40) -> list[socket.socket]:
    """Open connections, each with a request, which the event loop has not accepted yet."""
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(number)]
    for client in clients:
        client.sendall(REQUEST)
        client.setblocking(False)
    return clients


async def first_lines(clients: list[socket.socket]) -> set[bytes]:
    loop, found = asyncio.get_running_loop(), set()
    for client in clients:
        with client:
            try:
                async with asyncio.timeout(DEADLINE):
                    found.add(await loop.sock_recv(client, 12))
            except ConnectionResetError:
                found.add(b"reset")
    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda site, folder: Server(
            bind=site.service.listeners.addresses, tls=Tls(certificate=folder / "site.pem", key=folder / "site.key")
        ),
        lambda site, folder: Server(bind=("127.0.0.1:0", "127.0.0.1:0")),
        lambda site, folder: Server(bind=(f"127.0.0.2:{site.port}",)),
        lambda site, folder: Server(bind=(f"0.0.0.0:{site.port}",)),
    ],
    ids=["TLS is put on", "an address is added", "the address goes", "the address becomes wider"],
)
async def test_connections_queued_at_the_commit_are_served_as_before_it(
    serve_express: Serve, tmp_path: Path, change: Callable[[Playground, Path], Server]
) -> None:
    site = await serve_express(Server(bind=("127.0.0.1:0",)), game={"command": ["cat"]})
    prepared = await site.service.listeners.prepare(change(site, tmp_path))

    clients = queue(site.port)
    prepared.commit()

    assert await first_lines(clients) == {b"HTTP/1.1 200"}


async def test_tls_is_added_and_removed_on_the_same_socket(serve_express: Serve, tmp_path: Path) -> None:
    site = await serve_express(Server(bind=("127.0.0.1:0",)), game={"command": ["cat"]})
    (listener,) = site.service.listeners._open.values()
    tls = Tls(certificate=tmp_path / "site.pem", key=tmp_path / "site.key")

    for each in (tls, tls, None):
        (await site.service.listeners.prepare(Server(bind=("127.0.0.1:0",), tls=each))).commit()
        assert await request(site.port, tls=each is not None) == b"HTTP/1.1 200"
        assert list(site.service.listeners._open.values()) == [listener]


# -- files of unix sockets


async def test_a_unix_socket_is_kept_with_its_file_and_reopened_without_it(serve_express: Serve, tmp_path: Path) -> None:
    path = tmp_path / "site.sock"
    server = Server.model_validate({"bind": f"unix:{path}"})
    site = await serve_express(server, game={"command": ["cat"]})
    file = path.stat().st_ino
    (tmp_path / "link").symlink_to(path)

    async def edit(path: Path) -> None:
        (await site.service.listeners.prepare(Server.model_validate({"bind": f"unix:{path}"}))).commit()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(REQUEST)
        assert await reader.read(12) == b"HTTP/1.1 200"
        writer.close()

    await edit(tmp_path / "link")
    assert path.stat().st_ino == file
    await edit(path)
    path.unlink()
    await edit(path)


async def test_a_socket_file_of_another_server_is_not_removed(serve_express: Serve, tmp_path: Path) -> None:
    path = tmp_path / "site.sock"
    site = await serve_express(Server.model_validate({"bind": f"unix:{path}"}), game={"command": ["cat"]})
    path.rename(tmp_path / "old.sock")

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        site.service.listeners.close()

    assert path.exists()


# -- cleanups


@pytest.mark.parametrize("step", ["close", "roll back", "commit"])
async def test_a_listener_that_fails_to_close_does_not_keep_others_open(
    serve_express: Serve, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    binds = ("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0")
    site = await serve_express(Server(bind=binds), game={"command": ["cat"]})
    listeners = site.service.listeners
    change = await listeners.prepare(Server(bind=(*binds, *binds) if step == "roll back" else ("127.0.0.2:0",)))
    at_stake = change.added if step == "roll back" else list(listeners._open.values())
    real, failed = Listener.close, []

    def close(listener: Listener) -> None:
        real(listener)
        if not failed:
            failed.append(listener)
            raise OSError("injected")

    monkeypatch.setattr(Listener, "close", close)
    {"close": listeners.close, "roll back": change.roll_back, "commit": change.commit}[step]()

    assert len(at_stake) == 3
    assert [listener.sock.fileno() for listener in at_stake] == [-1] * 3
    assert len(serve_express.logged("closing a listener failed")) == 1
    if step == "close":
        change.roll_back()


async def test_an_address_that_fails_at_the_commit_does_not_affect_the_others(
    serve_express: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prepare` excludes this; otherwise the rest of the edit takes effect, and a starting server would fail."""

    site = await serve_express(Server(bind=("127.0.0.1:0",)), game={"command": ["cat"]})
    real = listen_module.start_listening

    def fail_once(sock: socket.socket, in_the_way: object = ()) -> None:
        monkeypatch.setattr(listen_module, "start_listening", real)
        raise OSError("injected")

    change = await site.service.listeners.prepare(Server(bind=("127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0")))
    monkeypatch.setattr(listen_module, "start_listening", fail_once)
    change.commit()
    monkeypatch.setattr(listen_module, "start_listening", fail_once)
    with pytest.raises(ListenError, match="can't listen at one of its addresses"):
        async with listen_module.open_listeners(Server(bind=("127.0.0.1:0",)), site.service.connections):
            pass

    assert [address.rpartition(":")[0] for address in site.service.listeners.addresses] == ["127.0.0.1", "127.0.0.3"]
    assert [listener.sock.fileno() for listener in change.added][:1] == [-1]
    assert await request(site.port) == b"HTTP/1.1 200"
