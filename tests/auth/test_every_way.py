"""Every way to authenticate, with real sockets: on both lanes, by several workers, and under a stock Hypercorn."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import bcrypt
import pytest

from scalesocket.config.load import load_site
from tests.auth.test_fetched_jwt import NEW, OLD, jwks
from tests.auth.test_fetched_jwt import token as fetched
from tests.auth.test_matrix import JWT_FAULTS, OPAQUE, OTHER_SECRET, PLACES, SECRET, basic, show, signed
from tests.auth.web import Asked, open_web, respond
from tests.cli.serving import serving
from tests.playing import DEADLINE, open_playground
from tests.raw import CLOSE, PING, RawClient, upgrade
from tests.server.test_asgi_stock import run_hypercorn, wait_port

pytestmark = pytest.mark.anyio

PROXY: Final = "127.0.0.2"
"""The address of the one trusted proxy."""
SITE: Final = """
[server]
bind = "127.0.0.1:0"
workers = {workers}
control = "off"
trusted_proxies = ["{proxy}/32"]

[defaults]
command = ["cat"]
routing = "json"

[apps.jwt.auth]
from = ["ticket", "header", "subprotocol", "cookie:session", "query:token"]
jwt = {{ secret = "{secret}", algorithms = "HS256", audience = "game", issuer = "me" }}
failures = {{ limit = 1000 }}

[apps.opaque.auth]
from = ["ticket", "header", "subprotocol", "cookie:session", "query:token"]
tokens_file = "tokens"
failures = {{ limit = 1000 }}

[apps.fetched.auth]
jwt = {{ keys_url = "{web}keys" }}

[apps.basic.auth]
users_file = "users"

[apps.proxied.auth]
header = "Remote-User"

[apps.hooked.auth]
hook = {{ url = "{web}hook", timeout = "500ms" }}

[apps.dead.auth]
hook = {{ url = "http://127.0.0.1:{closed}/", timeout = "500ms" }}

[apps.guests.auth]
anonymous = true
jwt = {{ secret = "{secret}" }}
"""
HOOK: Final[dict[str, bytes | None]] = {
    "session=good": respond({"user": "ann"}),
    "session=elsewhere": respond({"user": "ann", "rooms": ["two"]}),
    "session=expired": respond({"user": "ann", "expires_at": 1}),
    "session=unknown": respond(status=401),
    "session=forbidden": respond(status=403),
    "session=lies": respond({"user": ["ann"]}),
    "session=broken": respond(status=500),
    "session=slow": None,
}
KINDS: Final = ("express", "general", "workers, express", "workers, general", "hypercorn")
CODES: Final = {401: 4401, 403: 4403, 429: 1013, 503: 1013}


class Case(NamedTuple):
    """A request to enter room `one` of an app, and what becomes of it."""

    name: str
    app: str
    headers: dict[str, str]
    query: str = ""
    user: str | None = None
    status: int = 101
    is_from_proxy: bool = False


def cases() -> Iterator[Case]:
    for place in PLACES:
        yield Case(f"jwt, {place}", "jwt", *show(place, signed()), user="ann")
        for fault, (make, reason) in JWT_FAULTS.items():
            if make():
                yield Case(f"jwt, {place}, {fault}", "jwt", *show(place, make()), status=403 if reason == "wrong_room" else 401)
        yield Case(f"opaque, {place}", "opaque", *show(place, OPAQUE), user="ann")
        yield Case(f"opaque, {place}, tampered", "opaque", *show(place, f"{OPAQUE}x"), status=401)
        yield Case(f"opaque, {place}, a token of another app", "opaque", *show(place, signed()), status=401)
        yield Case(f"opaque, {place}, another room's", "opaque", *show(place, f"{OPAQUE}-elsewhere"), status=403)
    for app in ("jwt", "opaque", "fetched", "basic", "proxied", "hooked", "dead"):
        yield Case(f"{app}, missing", app, {}, status=401)
    yield Case(
        "jwt, two at once", "jwt", show("header", signed())[0] | show("cookie:session", signed(OTHER_SECRET))[0], user="ann"
    )
    yield Case("jwt, bad first", "jwt", show("header", signed(OTHER_SECRET))[0] | show("cookie:session", signed())[0], status=401)
    yield Case("jwt, two in one field", "jwt", {"Authorization": f"Bearer {signed()}, Bearer {signed()}"}, status=401)
    twice = f"Bearer {signed()}\r\nAuthorization: Bearer {signed()}"
    yield Case("jwt, two fields", "jwt", {"Authorization": twice}, status=401)
    yield Case(
        "basic, two fields",
        "basic",
        {"Authorization": f"{twice}\r\nAuthorization: {basic('ann', 'secret')['Authorization']}"},
        status=401,
    )
    yield Case("fetched", "fetched", show("header", fetched())[0], user="ann")
    yield Case("fetched, another key's", "fetched", show("header", fetched(NEW))[0], status=401)
    yield Case("basic", "basic", basic("ann", "secret"), user="ann")
    yield Case("basic, wrong", "basic", basic("ann", "Secret"), status=401)
    yield Case("basic, unknown", "basic", basic("bob", "secret"), status=401)
    for name in ("Remote-User", "REMOTE_USER"):
        yield Case(f"proxied, {name} of a client", "proxied", {name: "ann"}, status=401)
        yield Case(f"hooked, {name} of a client", "hooked", {name: "ann"}, status=401)
    yield Case("proxied", "proxied", {"Remote-User": "ann"}, user="ann", is_from_proxy=True)
    yield Case("proxied, an alias", "proxied", {"Remote_User": "ann"}, status=401, is_from_proxy=True)
    yield Case("proxied, two fields", "proxied", {"Remote-User": "ann\r\nRemote-User: bob"}, status=401, is_from_proxy=True)
    yield Case("proxied, and an alias", "proxied", {"Remote-User": "ann", "Remote_User": "bob"}, user="ann", is_from_proxy=True)
    yield Case("proxied, two", "proxied", {"Remote-User": "ann, bob"}, status=401, is_from_proxy=True)
    statuses = {"good": 101, "elsewhere": 403, "expired": 401, "unknown": 401, "forbidden": 403}
    for cookie in HOOK:
        status = statuses.get(cookie.partition("=")[2], 503)
        yield Case(f"hooked, {cookie}", "hooked", {"Cookie": cookie}, user="ann" if status == 101 else None, status=status)
    yield Case("dead hook", "dead", {"Cookie": "session=good"}, status=503)
    yield Case("a guest", "guests", {})
    yield Case("a guest with a bad token", "guests", show("header", "a.b.c")[0], status=401)
    yield Case("ticket, guessed", "jwt", {}, "?ticket=guess", status=401)


def answer(asked: Asked) -> bytes | None:
    return respond(jwks(old=OLD)) if asked.path == "/keys" else HOOK[asked.json["headers"]["Cookie"]]


@asynccontextmanager
async def open_site_file(folder: Path, kind: str) -> AsyncIterator[Path]:
    """Write the site and the files that it names, and answer as its hook and as the source of its keys."""
    hashes = [(OPAQUE, "one"), (f"{OPAQUE}-elsewhere", "two")]
    (folder / "tokens").write_text(
        "".join(f"ann:{hashlib.sha256(text.encode()).hexdigest()}:{rooms}\n" for text, rooms in hashes)
    )
    (folder / "users").write_bytes(b"ann:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)) + b"\n")
    async with open_web(respond_nothing) as gone:
        closed = gone.url.rpartition(":")[2].strip("/")
    async with open_web(answer) as web:
        site = folder / "site.toml"
        site.write_text(
            SITE.format(workers=3 if "workers" in kind else 1, proxy=PROXY, secret=SECRET, web=web.url, closed=closed)
        )
        yield site


def respond_nothing(_: Asked) -> None:
    """Answer nothing."""


@asynccontextmanager
async def open_server(kind: str, site: Path) -> AsyncIterator[int]:
    """Serve a site file; return the port."""
    if kind == "hypercorn":
        async with run_hypercorn(site) as process:
            yield await wait_port(process)
    elif "workers" in kind:
        with ExitStack() as stack:
            yield (await asyncio.to_thread(stack.enter_context, serving("serve", str(site)))).port
    else:
        async with open_playground(load_site(site)) as playground:
            yield playground.port


class Visitor:
    """Sends requests to a server."""

    def __init__(self, port: int, *, is_general: bool) -> None:
        self._port = port
        self._is_general = is_general

    async def ask(self, case: Case, *fields: str) -> tuple[int, Any]:
        """Ask for an upgrade; return the status, and with a 101 the first message, or else the close code."""
        address = PROXY if case.is_from_proxy else "127.0.0.1"
        streams = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(address, 0))
        async with asyncio.timeout(DEADLINE), RawClient(*streams) as client:
            if self._is_general:  # the upgrade after another request on the same connection
                client.send(b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await client.read_head()
            headers = [f"{name}: {value}" for name, value in case.headers.items()]
            client.send(upgrade(f"/{case.app}/one{case.query}", *headers, *fields))
            head = await client.read_head()
            status = int(head.split(" ")[1])
            if status != 101:
                return status, None
            while (frame := await client.read_frame()).opcode == PING:
                pass  # Hypercorn begins with one
            return status, int.from_bytes(frame.payload[:2]) if frame.opcode == CLOSE else json.loads(frame.payload)


async def find_differences(visitor: Visitor) -> list[str]:
    """Make every request, as a program and as a page; return what is not as it must be."""
    wrong = []
    for case in cases():
        for fields in ((), ("Origin: http://localhost",)):
            status, heard = await visitor.ask(case, *fields)
            if case.status == 101:
                is_right = status == 101 and isinstance(heard, dict) and heard["user"] == case.user
            elif fields:
                is_right = (status, heard) == (101, CODES[case.status])
            else:
                is_right = status == case.status
            if not is_right:
                wrong.append(f"{case.name}{', a page' if fields else ''}: {status} {heard}, not {case.status}")
    return wrong


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One event loop: none of this depends on it."""
    return "asyncio", {"use_uvloop": True}


@pytest.mark.parametrize("kind", KINDS)
async def test_each_way_lets_in_and_refuses_as_it_must(kind: str, tmp_path: Path) -> None:
    async with open_site_file(tmp_path, kind) as site, open_server(kind, site) as port:
        visitor = Visitor(port, is_general="general" in kind)

        assert await find_differences(visitor) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_ticket_is_valid_once_even_if_two_show_it_at_the_same_time(kind: str, tmp_path: Path) -> None:
    async with open_site_file(tmp_path, kind) as site, open_server(kind, site) as port:
        visitor = Visitor(port, is_general="general" in kind)
        tickets = [await get_ticket(port) for _ in range(8)]
        race = [Case("ticket", "jwt", {}, f"?ticket={ticket}") for ticket in tickets for _ in range(2)]

        statuses = [status for status, _ in await asyncio.gather(*map(visitor.ask, race))]
        elsewhere = await visitor.ask(Case("ticket", "opaque", {}, f"?ticket={await get_ticket(port)}"))

    assert [sorted(statuses[at : at + 2]) for at in range(0, 16, 2)] == [[101, 401]] * 8
    assert elsewhere[0] == 401


async def get_ticket(port: int) -> str:
    """Exchange a token for a ticket."""
    async with asyncio.timeout(DEADLINE), await RawClient.connect(port) as client:
        lines = ["POST /jwt/api/one/ticket HTTP/1.1", "Host: localhost", "Content-Length: 0", "Connection: close"]
        client.send("\r\n".join([*lines, f"Authorization: Bearer {signed()}", "", ""]).encode())
        ticket: str = json.loads((await client.read_end()).partition(b"\r\n\r\n")[2])["ticket"]
        return ticket
