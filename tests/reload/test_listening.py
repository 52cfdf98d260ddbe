"""Any sequence of edits of `bind` and `tls`: after each, exactly the named addresses are served, with or without TLS."""

import asyncio
import os
import random
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from scalesocket.reload import watch as watch_module
from scalesocket.reload.reloader import ReloadError
from scalesocket.server import addresses as addresses_module
from scalesocket.server.addresses import Address
from tests.playing import DEADLINE
from tests.reload.editing import CHAT, Edited, open_edited
from tests.reload.test_certificates import TLS, write_certificate

EDITS: Final = 40
REQUEST: Final = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
TCP: Final = ("127.0.0.1", "0.0.0.0", "[::]", "[::1]", "localhost")
UNIX: Final = ("one.sock", "two.sock")
PLACES: Final = ("127.0.0.1", "127.0.0.2", "::1", *UNIX)
"""The places that are checked for an answer."""


def has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def choose_binds(chance: random.Random) -> list[str]:
    """Draw addresses that are valid together in one list."""
    while True:
        binds = chance.sample([*TCP, *UNIX], chance.randint(1, 5))
        if not ({"127.0.0.1", "0.0.0.0"} <= set(binds) or {"[::1]", "[::]"} <= set(binds)):
            return binds


def expect_served(binds: Sequence[str]) -> set[str]:
    """The addresses that docs/config.md specifies."""
    named = {bind for bind in binds if bind in UNIX}
    if "localhost" in binds:
        named |= {"127.0.0.1", "::1"}
    if "[::1]" in binds or "[::]" in binds:
        named.add("::1")
    if "127.0.0.1" in binds:
        named.add("127.0.0.1")
    if "0.0.0.0" in binds or ("[::]" in binds and "127.0.0.1" not in named):
        named |= {"127.0.0.1", "127.0.0.2"}
    return named


async def look(folder: Path, place: str, port: int, *, tls: bool) -> str:
    """The outcome of a request at a place: a status, or that nothing listens or answers there."""
    context = ssl._create_unverified_context() if tls else None
    try:
        async with asyncio.timeout(DEADLINE):
            if place in UNIX:
                name = "localhost" if tls else None
                reader, writer = await asyncio.open_unix_connection(folder / place, ssl=context, server_hostname=name)
            else:
                reader, writer = await asyncio.open_connection(place, port, ssl=context)
            writer.write(REQUEST)
            answer = (await reader.readline()).decode().rstrip()
            writer.close()
    except (ConnectionRefusedError, FileNotFoundError):
        return "nobody"
    except (ssl.SSLError, ConnectionResetError):
        return ""
    return answer.removeprefix("HTTP/1.1 ")


async def check_served(edited: Edited, folder: Path, port: int, binds: Sequence[str], *, tls: bool) -> None:
    expected = expect_served(binds)
    for place in PLACES:
        found = await look(folder, place, port, tls=tls)
        assert found == ("200" if place in expected else "nobody"), (place, binds, edited.playground.service.listeners.addresses)
    assert {place for place in UNIX if (folder / place).exists()} == expected & set(UNIX)


def site_text(binds: Sequence[str], port: int, *, tls: bool, taken: str = "") -> str:
    places = [f"unix:{bind}" if bind in UNIX else f"{bind}:{port}" for bind in binds]
    listed = ", ".join(f'"{place}"' for place in [*places, *filter(None, [taken])])
    return f'[server]\ncontrol = "off"\nbind = [{listed}]\n' + (TLS if tls else "") + CHAT


async def edit(edited: Edited, binds: Sequence[str], port: int, *, tls: bool, how: str) -> bool:
    """Apply an edit, dry-run it, or make it fail. Returns whether it is applied."""
    text = site_text(binds, port, tls=tls)
    if how == "refused":
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = f"127.0.0.1:{other.getsockname()[1]}"
            edited.write(site_text(binds, port, tls=tls, taken=taken))
            with pytest.raises(ReloadError, match=f"can't listen at {taken}"):
                await edited.reloader.reload("test")
    else:
        edited.write(text)
        await edited.reloader.reload("test", dry_run=how == "dry run")
    return how == "applied"


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("0.0.0.0", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback (::1)")
@pytest.mark.parametrize("seed", os.environ.get("LISTENING_SEEDS", "1 2").split())
async def test_after_each_edit_exactly_the_named_addresses_are_served(
    tmp_path: Path, anyio_backend: object, monkeypatch: pytest.MonkeyPatch, free_port: int, seed: str
) -> None:
    """A client that is connected from the beginning stays connected."""
    monkeypatch.setattr(watch_module, "SETTLE", 0.002)
    real = addresses_module.look_up

    async def look_up(host: str, port: int) -> tuple[Address, ...]:
        if host != "localhost":
            return await real(host, port)
        return (Address(socket.AF_INET6, ("::1", port, 0, 0)), Address(socket.AF_INET, ("127.0.0.1", port)))

    monkeypatch.setattr(addresses_module, "look_up", look_up)
    write_certificate(tmp_path)
    chance, binds, tls = random.Random(seed), ["127.0.0.1"], False

    async with open_edited(tmp_path / "site.toml", site_text(binds, free_port, tls=tls), is_watching=False) as edited:
        ann = await edited.playground.join("/chat/lobby")
        for number in range(EDITS):
            next_binds, next_tls = choose_binds(chance), chance.random() < 0.4
            how = chance.choices(["applied", "dry run", "refused"], [8, 1, 1])[0]
            if await edit(edited, next_binds, free_port, tls=next_tls, how=how):
                binds, tls = next_binds, next_tls

            await check_served(edited, tmp_path, free_port, binds, tls=tls)
            await ann.say(f"still here {number}")
            await ann.hear(f"still here {number}")

    assert [place for place in UNIX if (tmp_path / place).exists()] == []
