"""The certificates of the connections between nodes: loaded at the start, and again with each edit and renewal of their files."""

from dataclasses import dataclass

from anyio import to_thread

from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.peers import PeerListener
from scalesocket.cluster.secured import Contexts, make_contexts
from scalesocket.config.certificates import CertificateError
from scalesocket.config.model import ClusterTls, Site
from scalesocket.config.plan import Plan
from scalesocket.server.addresses import ListenError
from scalesocket.server.expiry import ExpiryWarnings


class NodeCertificates:
    """The certificates that a node uses for new connections. Open connections keep those that they were opened with."""

    def __init__(self, tls: ClusterTls | None, contexts: Contexts | None, peers: PeerClient, listener: PeerListener) -> None:
        """`contexts`: what was loaded from the files of `tls`, and is in use by both ends."""
        self._tls = tls
        self._peers = peers
        self._listener = listener
        self._expiry = ExpiryWarnings("cluster.tls.certificate")
        self.use(contexts)

    async def prepare(self, _site: Site, _plan: Plan) -> "Renewal":
        """Load the files again, whose paths cannot change. Raises ListenError."""
        return Renewal(self, await load_contexts(self._tls))

    def use(self, contexts: Contexts | None) -> None:
        """Use them for new connections."""
        self._peers.tls = contexts and contexts.caller
        self._listener.tls = contexts and contexts.listener
        self._expiry.watch(contexts and contexts.validity)

    def close(self) -> None:
        """End the warnings of their end."""
        self._expiry.stop()


@dataclass(frozen=True, slots=True)
class Renewal:
    """Certificates that are loaded, and not in use yet."""

    certificates: NodeCertificates
    contexts: Contexts | None

    def commit(self) -> None:
        """Use them."""
        self.certificates.use(self.contexts)

    def roll_back(self) -> None:
        """Do nothing: the old ones are in use."""


async def load_contexts(tls: ClusterTls | None) -> Contexts | None:
    """Load the certificate of a node, if it has one, in a thread: the files may be on a slow disk. Raises ListenError."""
    if tls is None:
        return None
    try:
        return await to_thread.run_sync(make_contexts, tls.certificate, tls.key, tls.ca, abandon_on_cancel=True)
    except CertificateError as error:
        raise ListenError(f"cluster.tls.{error.blamed}: {error.reason}") from error
