"""Upgrades that wait for the verification of a password, with real sockets."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import bcrypt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

from scalesocket.admission.control import PendingAdmission
from scalesocket.admission.refusals import DRAINING, Refusal
from scalesocket.server.waiting_upgrade import MAX_EARLY, PendingResult, WaitingUpgrade
from tests.auth.test_credentials import basic
from tests.conftest import Serve
from tests.playing import DEADLINE
from tests.server.test_asgi_stock import run_hypercorn, wait_port, write_site

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(6)).decode()
UPGRADE = (
    "GET /game/one HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture
def users(tmp_path: Path) -> Path:
    file = tmp_path / "users"
    file.write_text(f"ann:{HASH}\n")
    return file


def head(fields: Mapping[str, str]) -> bytes:
    return (UPGRADE + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n").encode()


async def test_a_client_with_a_password_joins(serve: Serve, users: Path) -> None:
    site = await serve(game={"command": ["cat"], "auth": {"users_file": users}})

    ann = await site.join("/game/one", additional_headers=basic("ann", "secret"))
    await ann.say("hello")

    await ann.hear("hello")
    assert await site.refused("/game/one", additional_headers=basic("ann", "wrong")) == 401
    page = await site.join("/game/one", additional_headers=basic("ann", "wrong"), origin=f"http://127.0.0.1:{site.port}")
    assert await page.wait_closed() == (4401, "no valid credential")


async def test_messages_sent_before_the_response_are_delivered_in_order(serve_express: Serve, users: Path) -> None:
    site = await serve_express(game={"command": ["cat"], "auth": {"users_file": users}})
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    first = Frame(Opcode.TEXT, b"first").serialize(mask=True)
    large = Frame(Opcode.TEXT, b"x" * 200_000).serialize(mask=True)

    writer.write(head(basic("ann", "secret")) + first)
    writer.write(large)

    async with asyncio.timeout(DEADLINE):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        assert await reader.readexactly(7) == b"\x81\x05first"
        assert (await reader.readexactly(10))[:2] == b"\x81\x7f"
        assert await reader.readexactly(200_000) == b"x" * 200_000
    writer.close()


class RecordingTransport(asyncio.Transport):
    """A transport that says whether it is read."""

    is_read = True
    is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True


async def test_a_flood_before_the_response_is_not_read_beyond_a_bound(serve_express: Serve) -> None:
    site = await serve_express(game={"command": ["cat"]})
    verdict: asyncio.Future[Refusal] = asyncio.get_running_loop().create_future()
    decided: list[int] = []
    transport = RecordingTransport()
    waiting = WaitingUpgrade(
        transport, site.service.connections, PendingAdmission(verdict), b"", lambda _, early: decided.append(len(early))
    )

    waiting.data_received(b"\0" * (MAX_EARLY - 1))
    assert transport.is_read
    waiting.data_received(b"\0")
    assert not transport.is_read

    verdict.set_result(DRAINING)
    await site.until(lambda: decided == [MAX_EARLY])
    assert transport.is_read


async def test_a_connection_whose_decision_fails_is_cut(serve_express: Serve) -> None:
    site = await serve_express(game={"command": ["cat"]})
    owner: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    decided: list[bool] = []
    transport = RecordingTransport()
    WaitingUpgrade(transport, site.service.connections, PendingResult(owner), b"", lambda found, _: decided.append(found))

    owner.set_exception(ValueError("a bug"))

    await site.until(lambda: transport.is_aborted)
    assert decided == []


async def test_a_password_is_verified_under_a_stock_hypercorn(tmp_path: Path, users: Path) -> None:
    site = write_site(tmp_path, '[apps.game]\ncommand = ["cat"]\nauth = { users_file = "users" }\n')
    async with run_hypercorn(site) as process, asyncio.timeout(DEADLINE):
        url = f"ws://127.0.0.1:{await wait_port(process)}/game/one"

        async with connect(url, additional_headers=basic("ann", "secret")) as ann:
            await ann.send("hello")
            assert await ann.recv() == "hello"
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, additional_headers=basic("ann", "wrong"))

    assert refused.value.response.status_code == 401
    assert refused.value.response.headers.get_all("WWW-Authenticate") == [
        'Basic realm="game", charset="UTF-8"',
        'Bearer realm="game"',
    ]
