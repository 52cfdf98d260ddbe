"""The renewal of certificates while the server runs."""

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import cast

import anyio
import pytest
from anyio.streams.tls import TLSAttribute

from scalesocket.config.load import load_site
from scalesocket.config.model import Site
from scalesocket.config.plan import Plan
from scalesocket.reload.open import open_reloader
from scalesocket.reload.preparation import Preparation
from scalesocket.reload.site_reader import digest_files
from tests.playing import DEADLINE, open_playground, until
from tests.reload.editing import CHAT, SERVER, WITHIN, Edited, open_edited

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl"),
]

TLS = 'tls = { certificate = "site.pem", key = "site.key" }\n'


def write_certificate(folder: Path) -> bytes:
    """Write site.pem and site.key, new ones at every call; return the certificate (DER)."""
    wanted = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    files = ["-out", str(folder / "site.pem"), "-keyout", str(folder / "site.key")]
    subprocess.run(["openssl", *wanted.split(), *files], check=True, capture_output=True)
    return ssl.PEM_cert_to_DER_cert((folder / "site.pem").read_text())


async def fetch_certificate(edited: Edited) -> bytes:
    """The certificate that a new connection gets (DER)."""
    trust = ssl.create_default_context()
    trust.check_hostname = False
    trust.verify_mode = ssl.CERT_NONE
    with anyio.fail_after(DEADLINE):
        stream = await anyio.connect_tcp(
            "127.0.0.1", edited.playground.port, ssl_context=trust, tls_hostname="localhost", tls_standard_compatible=False
        )
        async with stream:
            return cast(bytes, stream.extra(TLSAttribute.peer_certificate_binary))


async def test_a_renewed_pair_is_used_for_new_connections(tmp_path: Path) -> None:
    old = write_certificate(tmp_path)
    async with open_edited(tmp_path / "site.toml", SERVER + TLS + CHAT) as edited:
        assert await fetch_certificate(edited) == old

        new = write_certificate(tmp_path)
        await edited.wait_applied()

        assert await fetch_certificate(edited) == new


async def test_a_pair_that_is_renewed_while_the_server_starts_is_used(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    file = tmp_path / "site.toml"
    file.write_text(SERVER + TLS + CHAT)
    site = load_site(file)
    digests = digest_files(site)
    async with open_playground(site) as playground:
        service = playground.service
        new = write_certificate(tmp_path)

        async def prepare(site: Site, _: Plan) -> Preparation:
            return await service.listeners.prepare(site.server)

        opening = open_reloader(service.gateway, prepare=[prepare], digests=digests, is_watching=False)
        async with opening as reloader:
            assert reloader is not None
            await reloader.reload("start")

            assert await fetch_certificate(Edited(file, playground, reloader)) == new


async def test_a_certificate_that_does_not_match_its_key_is_refused(tmp_path: Path) -> None:
    old = write_certificate(tmp_path)
    async with open_edited(tmp_path / "site.toml", SERVER + TLS + CHAT) as edited:
        key = (tmp_path / "site.key").read_text()
        new = write_certificate(tmp_path)
        right = (tmp_path / "site.key").read_text()
        (tmp_path / "site.key").write_text(key)
        assert "server.tls" in await edited.wait_refused()
        assert await fetch_certificate(edited) == old

        (tmp_path / "site.key").write_text(right)
        await until(lambda: edited.generation == 2, within=WITHIN)
        assert await fetch_certificate(edited) == new


async def test_tls_can_be_added_and_removed_at_the_same_address(tmp_path: Path) -> None:
    certificate = write_certificate(tmp_path)
    async with open_edited(tmp_path / "site.toml", SERVER + CHAT, is_watching=False) as edited:
        ann = await edited.playground.join("/chat/lobby")
        port = edited.playground.port

        edited.write(SERVER + TLS + CHAT)
        await edited.reloader.reload("test")
        assert await fetch_certificate(edited) == certificate
        assert edited.playground.port == port
        await ann.say("still here")
        await ann.hear("still here")

        edited.write(SERVER + CHAT)
        await edited.reloader.reload("test")
        await edited.playground.join("/chat/lobby")
