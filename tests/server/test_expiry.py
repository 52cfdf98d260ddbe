"""Warnings of a certificate that ends while the server runs."""

import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from scalesocket.config.model import Server
from scalesocket.server import expiry
from tests.conftest import Serve

DAY: Final = 86_400.0


class Clock:
    """Replaces the system's clock, which some process has set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offset = 0.0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.offset)


def make_certificate(folder: Path, days: int) -> Server:
    """A server on a free port with a new certificate that is valid for so many days."""
    words = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days {days} -subj /CN=localhost"
    tls = {"certificate": folder / "site.pem", "key": folder / "site.key"}
    files = ["-out", tls["certificate"], "-keyout", tls["key"]]
    subprocess.run(["openssl", *words.split(), *files], check=True, capture_output=True)
    return Server.model_validate({"bind": "127.0.0.1:0", "tls": tls})


async def test_a_certificate_that_ends_while_it_is_served_is_logged_once_a_day(
    serve_express: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(expiry, "CHECK", 0.01)
    server = make_certificate(tmp_path, days=8)
    site = await serve_express(server, game={"command": ["cat"]})

    def logged() -> list[str]:
        return [entry["event"] for entry in serve_express.events if entry["event"].startswith("certificate ")]

    assert logged() == []
    expected = []
    for days, event in (
        (6.5, "certificate expires in 1 day"),
        (7.5, "certificate expires in less than a day"),
        (8.5, "certificate has expired"),
    ):
        clock.offset = days * DAY
        expected.append(event)
        await site.until(lambda: logged() == expected)

    assert {entry["log_level"] for entry in serve_express.events if entry["event"] in expected} == {"warning"}


async def test_an_edit_does_not_repeat_the_warning_and_a_renewed_certificate_ends_it(
    serve_express: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    clock.offset = 7.5 * DAY
    server = make_certificate(tmp_path, days=8)
    site = await serve_express(server, game={"command": ["cat"]})
    listeners = site.service.listeners

    (await listeners.prepare(server)).commit()
    assert len(serve_express.logged("certificate expires in less than a day")) == 1
    (await listeners.prepare(make_certificate(tmp_path, days=100))).commit()
    clock.offset = 9 * DAY
    (await listeners.prepare(server)).commit()

    assert serve_express.logged("certificate has expired") == []
