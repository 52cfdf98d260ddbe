"""The renewal of the certificates of nodes, while clients pass between them."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import pytest

from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.ready import PeerError
from scalesocket.config.model import ClusterTls
from scalesocket.config.plan import Plan
from scalesocket.config.problems import ConfigError
from scalesocket.control.messages import ReloadReport
from scalesocket.io.poller import Poller
from scalesocket.node.certificates import NodeCertificates, load_contexts
from scalesocket.server import expiry
from tests.cluster.certificates import make_authority, make_certificate
from tests.cluster.nodes import SECRET, BareNode, Node, Nodes, hand_over, open_nodes
from tests.conftest import capture_all_logs
from tests.playing import DEADLINE, site_of, until
from tests.reload.editing import CHAT, OTHER, SERVER, Edited, open_edited
from tests.server.test_expiry import Clock

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl"),
]
CLUSTER: Final = """
[cluster]
engine = "redis://127.0.0.1:1"
listen = "127.0.0.1:1"
secret = "the secret of all nodes"
tls = { certificate = "a.pem", key = "a.key", ca = "a-ca.pem" }
"""
DAY: Final = 86_400.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


def trust(folder: Path, node: str, *authorities: str) -> None:
    """Write the file of the authorities that a node trusts."""
    (folder / f"{node}-ca.pem").write_text("".join((folder / f"{name}.pem").read_text() for name in authorities))


def files_of(folder: Path, node: str) -> ClusterTls:
    return ClusterTls(certificate=folder / f"{node}.pem", key=folder / f"{node}.key", ca=folder / f"{node}-ca.pem")


class Passing:
    """A client in a room of the other node, and guests who join it one after the other and leave."""

    def __init__(self, site: Nodes) -> None:
        self._site = site
        self._guests = 0
        self._is_ending = False

    async def run(self) -> None:
        """Check that everybody receives everything in order, until `end`."""
        resident = await self._site.join("/chat/den")
        while not self._is_ending:
            guest = await self._site.join("/chat/den")
            for player, text in (resident, f"welcome, guest {self._guests}"), (guest, "thank you"):
                await player.say(text)
                await resident.hear(text)
                await guest.hear(text)
            await guest.leave()
            self._guests += 1

    async def wait_guests(self) -> None:
        """Wait for a guest who joins from now on, and leaves."""
        expected = self._guests + 2
        await until(lambda: self._guests >= expected)

    def end(self) -> None:
        self._is_ending = True


async def check_reached(caller: Node, other: Node) -> None:
    """Check that one node can open a connection to another."""
    assert await caller.client.request(other.address, b"hello", timeout=DEADLINE) == b"response to hello"


async def test_nodes_change_their_authority_one_after_the_other_while_clients_pass_between_them(tmp_path: Path) -> None:
    for name in ("old", "new"):
        make_authority(tmp_path, name)
    for name in ("a", "b", "late"):
        make_certificate(tmp_path, name, by="old")
        trust(tmp_path, name, "old")
    site_file = site_of({"chat": {"command": ["cat"]}})
    async with open_nodes(site_file, tls=await load_contexts(files_of(tmp_path, "a"))) as site, asyncio.TaskGroup() as tasks:
        nodes = {"a": site.door, "b": site.owner}
        certificates = {}
        for name, node in nodes.items():
            files = files_of(tmp_path, name)
            certificates[name] = NodeCertificates(files, await load_contexts(files), node.client, node.listener)
        passing = Passing(site)
        running = tasks.create_task(passing.run())
        await passing.wait_guests()

        for authorities, signed_by in (("old", "new"), None), (("old", "new"), "new"), (("new",), None):
            for name in nodes:
                trust(tmp_path, name, *authorities)
                if signed_by is not None:
                    make_certificate(tmp_path, name, by=signed_by)
                (await certificates[name].prepare(site_file, Plan())).commit()
                await check_reached(site.door, site.owner)
                await check_reached(site.owner, site.door)
                await passing.wait_guests()
        passing.end()
        await running

        trust(tmp_path, "late", "old", "new")
        late = await load_contexts(files_of(tmp_path, "late"))
        assert late is not None
        poller = site.door.service.connections.poller
        with closing(BareNode(poller, late)) as node, closing(PeerClient(SECRET, poller=poller, tls=late.caller)) as client:
            with pytest.raises(PeerError):
                await site.door.client.request(node.address, b"hello", timeout=DEADLINE)
            with pytest.raises(PeerError):
                await client.request(site.owner.address, b"hello", timeout=DEADLINE)
        for one in certificates.values():
            one.close()


class Renewed:
    """A node whose site file is served and reloaded, without the others of its cluster."""

    def __init__(self, folder: Path, edited: Edited, node: BareNode, client: PeerClient) -> None:
        self.files = files_of(folder, "a")
        self.edited = edited
        self.node = node
        self.client = client

    async def reload(self) -> ReloadReport:
        return await self.edited.reloader.reload("test")

    def written(self) -> bytes:
        """The certificate in its file (DER)."""
        return ssl.PEM_cert_to_DER_cert(self.files.certificate.read_text())

    async def shown(self) -> bytes:
        """The certificate that a new connection gets (DER)."""
        host, port = self.node.address.split(":")
        async with asyncio.timeout(DEADLINE):
            _, writer = await asyncio.open_connection(host, int(port), ssl=self.client.tls, server_hostname="")
            certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.transport.abort()
        return certificate


@asynccontextmanager
async def open_renewed(folder: Path) -> AsyncIterator[Renewed]:
    make_authority(folder, "ours")
    make_certificate(folder, "a", by="ours")
    trust(folder, "a", "ours")
    files = files_of(folder, "a")
    contexts = await load_contexts(files)
    assert contexts is not None
    with (
        closing(Poller(asyncio.get_running_loop())) as poller,
        closing(BareNode(poller, contexts)) as node,
        closing(PeerClient(SECRET, poller=poller, tls=contexts.caller, max_ready=0)) as client,
        closing(NodeCertificates(files, contexts, client, node.listener)) as certificates,
    ):
        prepare = [certificates.prepare]
        async with open_edited(folder / "site.toml", SERVER + CHAT + CLUSTER, prepare=prepare, is_watching=False) as edited:
            yield Renewed(folder, edited, node, client)


async def test_renewed_files_are_used_for_new_connections_and_open_ones_stay(tmp_path: Path) -> None:
    async with open_renewed(tmp_path) as renewed:
        old = renewed.written()
        stream = await hand_over(renewed.client, renewed.node)
        make_certificate(tmp_path, "a", by="ours")
        assert await renewed.shown() == old != renewed.written()

        await renewed.reload()

        assert await renewed.shown() == renewed.written()
        await stream.write(b"still here")
        assert await renewed.node.streams[0].read(10) == b"still here"
        stream.socket.close()


async def test_a_change_of_the_authorities_alone_is_a_renewal(tmp_path: Path) -> None:
    async with open_renewed(tmp_path) as renewed:
        make_authority(tmp_path, "other")
        make_certificate(tmp_path, "b", by="other")
        trust(tmp_path, "b", "ours")
        other = await load_contexts(files_of(tmp_path, "b"))
        assert other is not None
        poller = renewed.node.listener.poller
        with closing(PeerClient(SECRET, poller=poller, tls=other.caller)) as client:
            with pytest.raises(PeerError):
                await client.request(renewed.node.address, b"hello", timeout=DEADLINE)
            trust(tmp_path, "a", "ours", "other")

            report = await renewed.reload()

            assert [(change.path, change.kind) for change in report.changes] == [("cluster.tls", "renewed")]
            assert await client.request(renewed.node.address, b"hello", timeout=DEADLINE) == b"olleh"


async def test_broken_files_leave_the_old_ones_in_use_and_say_why_once(tmp_path: Path) -> None:
    async with open_renewed(tmp_path) as renewed:
        old, files = renewed.written(), renewed.files
        make_certificate(tmp_path, "a", by="ours")
        make_authority(tmp_path, "other")
        right = {file: file.read_bytes() for file in (files.certificate, files.key, files.ca)}
        for file, text, reason in (
            (files.certificate, right[files.certificate][:200], "certificate: contains a damaged certificate"),
            (files.key, right[files.key][:100], "key: contains a damaged key"),
            (files.key, (tmp_path / "other.key").read_bytes(), "key: does not belong to the certificate"),
            (files.ca, right[files.ca] * 2 + right[files.ca][:200], "ca: contains a damaged certificate"),
            (files.ca, b"", "ca: contains no certificate"),
        ):
            file.write_bytes(text)
            with capture_all_logs() as events, pytest.raises(ConfigError):
                await renewed.reload()
            file.write_bytes(right[file])

            logged = [event["event"] for event in events if event["log_level"] == "error"]
            assert [f"cluster.tls.{reason}" in text for text in logged] == [True, False], logged
            assert logged[1] == "not reloaded, the site runs as before"
            assert f"cluster.tls.{reason}" in (renewed.edited.last_error or "")
            assert await renewed.shown() == old
            assert await renewed.client.request(renewed.node.address, b"hello", timeout=DEADLINE) == b"olleh"

        await renewed.reload()
        assert renewed.edited.last_error is None
        assert await renewed.shown() == renewed.written() != old


async def test_a_certificate_near_its_end_is_logged_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.offset = 1.6 * DAY
    monkeypatch.setattr(expiry, "CHECK", 0.01)
    with capture_all_logs() as events:
        async with open_renewed(tmp_path) as renewed:

            def logged() -> list[tuple[str, str]]:
                return [(event["event"], event["key"]) for event in events if event["event"].startswith("certificate ")]

            expected = [("certificate expires in less than a day", "cluster.tls.certificate")]
            assert logged() == expected
            renewed.edited.write(SERVER + CHAT + OTHER + CLUSTER)
            await renewed.reload()
            assert logged() == expected

            clock.offset = 2.1 * DAY
            expected.append(("certificate has expired", "cluster.tls.certificate"))
            await until(lambda: logged() == expected)
