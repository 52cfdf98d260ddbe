"""Nodes that encrypt the connections between them, each with a certificate of the cluster's own authority."""

import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster.certificates import make_authority, make_certificate
from tests.node.serving import Cluster, Node, open_cluster
from tests.raw import upgrade

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with open_cluster(tmp_path) as cluster:
        yield cluster


def secured(folder: Path, node: str, *, by: str, trusts: str) -> str:
    """The lines of `[cluster]` for a node whose certificate one authority has signed."""
    make_certificate(folder, node, by=by)
    return f'tls = {{ certificate = "{node}.pem", key = "{node}.key", ca = "{trusts}.pem" }}'


def find_error(node: Node, event: str) -> str:
    """What the log says with an event."""
    line = next(line for line in node.server.output.splitlines() if event in line)
    return line.partition('error="')[2].partition('"')[0]


def test_clients_pass_between_nodes_with_certificates_of_one_authority_and_others_are_refused_until_theirs_are_replaced(
    cluster: Cluster,
) -> None:
    folder = cluster.folder
    for name in ("ours", "other"):
        make_authority(folder, name)
    a, b = (cluster.start(name, more=secured(folder, name, by="ours", trusts="ours")) for name in "ab")
    stranger = cluster.start("c", more=secured(folder, "c", by="other", trusts="ours"))  # the two others do not trust it

    here, there = cluster.join(a, "den"), cluster.join(b, "den")
    assert there.read_opened() == here.read_opened()
    there.send("from b")
    assert [here.read(), there.read()] == ["from b", "from b"]

    with closing(socket.create_connection(("127.0.0.1", stranger.server.port))) as client:
        client.sendall(upgrade("/chat/den"))
        stranger.server.wait_output("node not reached")
    a.server.wait_output("TLS with another node failed")
    assert find_error(stranger, "node not reached").endswith("certificates that the ca of the others has signed)")
    assert "CERTIFICATE_VERIFY_FAILED" in find_error(a, "TLS with another node failed")

    make_certificate(folder, "c", by="ours")
    stranger.server.wait_output("certificates of the node renewed")
    elsewhere = cluster.join(stranger, "den")
    elsewhere.send("from c")
    for client in here, there:
        assert client.read() == "from c"
