"""Why a client is not let in, and the response that says so. No text here contains a part of a credential."""

from dataclasses import dataclass
from typing import Final

from scalesocket.errors import CREDENTIAL_EXPIRED, NOT_ALLOWED_HERE, NOT_AUTHENTICATED, TOO_MANY_FAILURES, UNAVAILABLE, Close


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """Why a client is not let in."""

    reason: str
    """The label in the log and in metrics."""
    status: int
    """Of the response to a client that is no browser."""
    message: str
    """The text for the person at the client."""
    close: Close
    """How the websocket of a page is closed, which cannot read a status."""
    is_failure: bool = False
    """Whether it counts for `auth.failures`: the credential may have been guessed."""
    retry_after: int | None = None
    """Seconds."""


NO_CREDENTIAL: Final = Denial(
    reason="no_credential", status=401, message="this app needs a credential (a token or a password)", close=NOT_AUTHENTICATED
)
BAD_CREDENTIAL: Final = Denial(
    reason="bad_credential", status=401, message="the credential is not valid", close=NOT_AUTHENTICATED, is_failure=True
)
EXPIRED: Final = Denial(
    reason="expired", status=401, message="the credential has expired: get a new one", close=CREDENTIAL_EXPIRED
)
WRONG_ROOM: Final = Denial(reason="wrong_room", status=403, message="the credential is not for this room", close=NOT_ALLOWED_HERE)
FORBIDDEN: Final = Denial(
    reason="forbidden", status=403, message="the credential does not let you in here", close=NOT_ALLOWED_HERE, is_failure=True
)
"""A hook's 403. It does not say whether the credential is known, so it may have been guessed."""
TOO_MANY: Final = Denial(
    reason="too_many_failures", status=429, message="too many failed attempts from this address", close=TOO_MANY_FAILURES
)
NOT_AVAILABLE: Final = Denial(
    reason="unavailable",
    status=503,
    message="the credential cannot be verified at the moment",
    close=UNAVAILABLE,
    retry_after=5,
)
