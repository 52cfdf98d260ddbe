"""Users whom a trusted proxy has authenticated: `auth.header`."""

from scalesocket.auth.attempt import Attempt
from scalesocket.auth.denial import BAD_CREDENTIAL, Denial
from scalesocket.auth.identity import Identity
from scalesocket.auth.jwt import make_identity
from scalesocket.wire.handshake import decode_utf8


class HeaderVerifier:
    """Trusts the name that a proxy gives. `CredentialFinder` takes it from trusted proxies alone."""

    def verify(self, attempt: Attempt) -> Identity | Denial | None:
        """Decide by the header. Two values are refused: one of them is the client's own, which the proxy did not remove."""
        user = attempt.credentials.user
        if not user:
            return None
        return BAD_CREDENTIAL if "," in user else make_identity("header", user=decode_utf8(user))
