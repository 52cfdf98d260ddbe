"""The addresses of an entry of `server.bind`, and what an edit of them keeps open."""

import asyncio
import os
import socket
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest

from scalesocket.config.model import Server
from scalesocket.server import addresses as addresses_module
from scalesocket.server import bind as bind_module
from scalesocket.server.addresses import Address, ListenError, resolve, spread
from scalesocket.server.bind import bind_all, discard
from tests import ports
from tests.conftest import Serve
from tests.playing import Playground


def has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback (::1)")


def address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    return Address(socket.AF_INET6, (host, int(port), 0, 0)) if ":" in host else Address(socket.AF_INET, (host, int(port)))


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A resolver that knows the names in this dict."""
    known: dict[str, list[str]] = {}
    real = addresses_module.look_up

    async def look_up(host: str, port: int) -> tuple[Address, ...]:
        if host not in known:
            return await real(host, port)
        return tuple(address(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}") for ip in known[host])

    monkeypatch.setattr(addresses_module, "look_up", look_up)
    return known


@pytest.fixture
def free_port() -> int:
    """A port that is free at every address."""
    return ports.free_port()


async def is_served(host: str, port: int) -> bool:
    """Whether a request is answered at an address; False if the connection is refused."""
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
    except ConnectionRefusedError:
        return False
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return True


async def served(port: int) -> set[str]:
    """The addresses of this machine that answer on a port."""
    hosts = ["127.0.0.1", "127.0.0.2", *(["::1"] if has_ipv6() else [])]
    return {host for host in hosts if await is_served(host, port)}


async def edit(site: Playground, *bind: str) -> None:
    (await site.service.listeners.prepare(Server(bind=bind))).commit()


def sockets(site: Playground) -> dict[str, int]:
    """The inode of each listening socket."""
    opened = site.service.listeners._open.values()
    return {str(listener.address): listener.sock.fileno() for listener in opened}


# --- Which sockets are opened


@pytest.mark.parametrize(
    ("entries", "opened"),
    [
        ([["127.0.0.1:1"]], "127.0.0.1:1"),
        ([["[::]:1"]], "[::]:1 0.0.0.0:1"),
        ([["[::]:1"], ["0.0.0.0:1"]], "[::]:1 0.0.0.0:1"),
        ([["0.0.0.0:1"], ["[::]:1"]], "0.0.0.0:1 [::]:1"),
        ([["[::]:1"], ["127.0.0.1:1"]], "[::]:1 127.0.0.1:1"),
        ([["[::]:1"], ["127.0.0.1:2"]], "[::]:1 0.0.0.0:1 127.0.0.1:2"),
        ([["127.0.0.1:1", "[::1]:1"], ["127.0.0.1:1"]], "127.0.0.1:1 [::1]:1"),
        ([["127.0.0.1:1", "[::1]:1"], ["0.0.0.0:1"]], "[::1]:1 0.0.0.0:1"),
        ([["127.0.0.1:1", "[::1]:1"], ["[::]:1"]], "127.0.0.1:1 [::]:1"),
        ([["127.0.0.1:0"], ["127.0.0.1:0"], ["[::]:0"]], "127.0.0.1:0 127.0.0.1:0 [::]:0 0.0.0.0:0"),
    ],
)
def test_no_address_is_opened_twice_and_a_named_ipv4_address_keeps_its_own_socket(entries: list[list[str]], opened: str) -> None:
    found = spread([[address(text) for text in entry] for entry in entries])

    assert " ".join(str(one) for one in chain(*found)) == opened


async def test_a_name_resolves_to_all_its_addresses_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        known = [("127.0.0.1", 9), ("::1", 9, 0, 0), ("127.0.0.1", 9)]
        return [(socket.AF_INET6 if len(name) == 4 else socket.AF_INET, socket.SOCK_STREAM, 6, "", name) for name in known]

    class Loop:
        pass

    loop = Loop()
    loop.getaddrinfo = getaddrinfo  # type: ignore[attr-defined]
    monkeypatch.setattr(addresses_module.asyncio, "get_running_loop", lambda: loop)
    monkeypatch.setattr(addresses_module.asyncio, "timeout", asyncio.timeout)

    assert await addresses_module.look_up("games.example", 9) == (address("127.0.0.1:9"), address("[::1]:9"))


async def test_a_name_that_is_not_found_is_reported() -> None:
    with pytest.raises(ListenError, match=r"server.bind: can't listen at nowhere\.invalid:80: "):
        await resolve("nowhere.invalid:80")


async def test_waiting_for_a_resolver_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_up(host: str, port: int) -> tuple[Address, ...]:
        raise TimeoutError

    monkeypatch.setattr(addresses_module, "look_up", look_up)

    with pytest.raises(ListenError, match=r"can't listen at games\.example:80: its host was not found in 20 s"):
        await resolve("games.example:80")


@needs_ipv6
def test_port_0_is_the_same_free_port_at_all_addresses_of_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first free port of one address is in use at the other: another one is tried."""
    real, taken = bind_module._bind_tcp_socket, []

    def bind(wanted: Address, *, may_overlap: bool = False) -> socket.socket:
        sock = real(wanted, may_overlap=may_overlap)
        if wanted.port == 0 and not taken:
            taken.append(socket.create_server(("::1", sock.getsockname()[1]), family=socket.AF_INET6))
        return sock

    monkeypatch.setattr(bind_module, "_bind_tcp_socket", bind)

    opened = bind_all("localhost:0", [address("127.0.0.1:0"), address("[::1]:0")])

    v4, v6 = opened
    assert (v4.family, v6.family) == (socket.AF_INET, socket.AF_INET6)
    assert v4.port == v6.port != taken[0].getsockname()[1]
    for sock in (*opened.values(), *taken):
        discard(sock)


def test_an_address_that_the_machine_lacks_is_skipped_if_there_is_another() -> None:
    """No machine has 192.0.2.1, which is reserved for documentation (RFC 5737)."""
    opened = bind_all("games.example:0", [address("192.0.2.1:0"), address("127.0.0.1:0")])

    assert [one.name[0] for one in opened] == ["127.0.0.1"]
    for sock in opened.values():
        discard(sock)
    with pytest.raises(ListenError, match=r"can't listen at games.example:7 \(192.0.2.1:7\): cannot assign requested address"):
        bind_all("games.example:7", [address("192.0.2.1:7")])


def test_an_error_names_the_address_that_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenError, match=rf"can't listen at \[::\]:{port} \(0.0.0.0:{port}\): address already in use"):
            bind_all(f"[::]:{port}", [address(f"0.0.0.0:{port}")])


# --- Serving


@needs_ipv6
async def test_wildcards_of_ipv4_and_ipv6_can_be_combined(serve_express: Serve, free_port: int) -> None:
    site = await serve_express(Server(bind=(f"0.0.0.0:{free_port}", f"[::]:{free_port}")), game={"command": ["cat"]})

    assert site.service.listeners.addresses == [f"0.0.0.0:{free_port}", f"[::]:{free_port}"]
    assert await served(free_port) == {"127.0.0.1", "127.0.0.2", "::1"}


@needs_ipv6
async def test_the_wildcard_of_ipv6_alone_includes_ipv4(serve_express: Serve) -> None:
    site = await serve_express(Server(bind=("[::]:0",)), game={"command": ["cat"]})

    assert site.service.listeners.addresses == [f"[::]:{site.port}", f"0.0.0.0:{site.port}"]
    assert await served(site.port) == {"127.0.0.1", "127.0.0.2", "::1"}


@needs_ipv6
async def test_the_wildcard_of_ipv6_excludes_ipv4_if_an_ipv4_address_is_named(serve_express: Serve, free_port: int) -> None:
    await serve_express(Server(bind=(f"[::]:{free_port}", f"127.0.0.1:{free_port}")), game={"command": ["cat"]})

    assert await served(free_port) == {"127.0.0.1", "::1"}


@needs_ipv6
async def test_a_name_is_served_at_all_its_addresses(serve_express: Serve, hosts: dict[str, list[str]]) -> None:
    hosts["localhost"] = ["127.0.0.1", "::1"]
    site = await serve_express(Server(bind=("localhost:0",)), game={"command": ["cat"]})

    assert site.service.listeners.addresses == [f"127.0.0.1:{site.port}", f"[::1]:{site.port}"]
    assert await served(site.port) == {"127.0.0.1", "::1"}


async def test_a_name_and_one_of_its_addresses_can_be_combined(serve_express: Serve, hosts: dict[str, list[str]]) -> None:
    hosts["games.example"] = ["127.0.0.1", "127.0.0.2"]
    site = await serve_express(Server(bind=("127.0.0.1:0",)), game={"command": ["cat"]})

    await edit(site, f"127.0.0.1:{site.port}", f"games.example:{site.port}")

    assert site.service.listeners.addresses == [f"127.0.0.1:{site.port}", f"127.0.0.2:{site.port}"]


async def test_port_0_can_be_given_twice(serve_express: Serve) -> None:
    site = await serve_express(Server(bind=("127.0.0.1:0", "127.0.0.1:0")), game={"command": ["cat"]})
    one, other = before = site.service.listeners.addresses

    await edit(site, "127.0.0.1:0", "127.0.0.1:0")

    assert one != other
    assert site.service.listeners.addresses == before
    for each in before:
        assert await is_served("127.0.0.1", int(each.rpartition(":")[2]))


# --- Edits


@needs_ipv6
@pytest.mark.parametrize("first", ["[::]", "0.0.0.0"])
async def test_adding_and_dropping_a_family_refuses_no_connection(serve_express: Serve, free_port: int, first: str) -> None:
    """Both, then one, then both: the family that stays keeps its sockets, and no connection is cut."""
    second = "0.0.0.0" if first == "[::]" else "[::]"
    one, both = (f"{first}:{free_port}",), (f"{first}:{free_port}", f"{second}:{free_port}")
    site = await serve_express(Server(bind=both), game={"command": ["cat"]})
    ann, before = await site.join("/game/one"), sockets(site)

    await edit(site, *one)
    assert await served(free_port) == ({"127.0.0.1", "127.0.0.2", "::1"} if first == "[::]" else {"127.0.0.1", "127.0.0.2"})
    assert sockets(site).items() <= before.items()
    await edit(site, *both)
    assert await served(free_port) == {"127.0.0.1", "127.0.0.2", "::1"}

    assert sockets(site)[f"{first}:{free_port}"] == before[f"{first}:{free_port}"]
    await ann.say("still here")
    await ann.hear("still here")


@needs_ipv6
async def test_an_edit_can_name_an_ipv4_address_beside_the_wildcard_of_ipv6_and_drop_it(
    serve_express: Serve, free_port: int
) -> None:
    site = await serve_express(Server(bind=(f"[::]:{free_port}",)), game={"command": ["cat"]})
    ann, socket_of_ipv6 = await site.join("/game/one"), sockets(site)[f"[::]:{free_port}"]

    await edit(site, f"127.0.0.1:{free_port}", f"[::]:{free_port}")
    assert await served(free_port) == {"127.0.0.1", "::1"}
    await edit(site, f"[::]:{free_port}")
    assert await served(free_port) == {"127.0.0.1", "127.0.0.2", "::1"}

    assert sockets(site)[f"[::]:{free_port}"] == socket_of_ipv6
    await ann.say("still here")
    await ann.hear("still here")


@needs_ipv6
async def test_an_edit_can_replace_a_name_by_its_address_and_back(
    serve_express: Serve, hosts: dict[str, list[str]], free_port: int
) -> None:
    hosts["localhost"] = ["::1", "127.0.0.1"]
    site = await serve_express(Server(bind=(f"localhost:{free_port}",)), game={"command": ["cat"]})
    before = sockets(site)

    await edit(site, f"127.0.0.1:{free_port}")
    assert await served(free_port) == {"127.0.0.1"}
    await edit(site, f"localhost:{free_port}")
    assert await served(free_port) == {"127.0.0.1", "::1"}

    assert site.service.listeners.addresses == [f"[::1]:{free_port}", f"127.0.0.1:{free_port}"]
    assert sockets(site)[f"127.0.0.1:{free_port}"] == before[f"127.0.0.1:{free_port}"]


async def test_an_edit_of_other_keys_keeps_the_sockets_and_resolves_no_name(
    serve_express: Serve, hosts: dict[str, list[str]]
) -> None:
    hosts["games.example"] = ["127.0.0.1", "192.0.2.1", "127.0.0.2"]
    site = await serve_express(Server(bind=("games.example:0",)), game={"command": ["cat"]})
    before = sockets(site)
    hosts["games.example"] = []

    await edit(site, "games.example:0")

    assert list(before) == [f"127.0.0.1:{site.port}", f"127.0.0.2:{site.port}"]
    assert sockets(site) == before
    assert len(serve_express.logged("address skipped")) == 1


# --- Inherited sockets, as systemd passes them


async def test_an_inherited_socket_and_its_address_can_be_combined(serve_express: Serve) -> None:
    """The inherited socket stays open in another process. An overlapping socket would lose connections to it."""
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        port = inherited.getsockname()[1]
        site = await serve_express(Server(bind=(f"fd://{inherited.fileno()}",)), game={"command": ["cat"]})
        before = sockets(site)

        await edit(site, f"127.0.0.1:{port}")
        assert sockets(site) == before
        with pytest.raises(ListenError, match="in use"):
            await edit(site, f"0.0.0.0:{port}")
        await edit(site, f"fd://{inherited.fileno()}", "127.0.0.1:0")

        assert site.service.listeners.addresses[0] == f"127.0.0.1:{port}"
        assert await is_served("127.0.0.1", port)


async def test_the_file_of_an_inherited_unix_socket_stays(serve_express: Serve, tmp_path: Path) -> None:
    path = tmp_path / "site.sock"
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind(os.fspath(path))
        inherited.listen()
        bind = f"fd://{inherited.fileno()}"
        site = await serve_express(Server(bind=(bind,)), game={"command": ["cat"]})
        before = sockets(site)

        await edit(site, bind, "127.0.0.1:0")
        assert before.items() <= sockets(site).items()
        assert site.service.listeners.addresses[0] == f"unix:{path}"
        await edit(site, "127.0.0.1:0")

        assert path.exists()
