"""The refusals of upgrades and requests: HTTP status, label for metrics, and message for the client."""

from dataclasses import dataclass
from typing import Final

from scalesocket.auth.denial import Denial
from scalesocket.config.model import App

RETRY_AFTER: Final = 5
"""Seconds until a client should try again while the server drains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """How a request is refused."""

    status: int
    reason: str
    """The label in metrics."""
    message: str
    """The text for the person at the client."""
    retry_after: int | None = None
    """Seconds."""
    challenges: tuple[str, ...] = ()
    """Values of `WWW-Authenticate`."""

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """Header fields of the response, besides those that every one has."""
        retry = () if self.retry_after is None else (("Retry-After", str(self.retry_after)),)
        return (*(("WWW-Authenticate", challenge) for challenge in self.challenges), *retry)


BAD_HOST: Final = Refusal(status=400, reason="bad_host", message="the Host header is not a host, or a host and a port")
WRONG_HOST: Final = Refusal(
    status=421, reason="host", message="this host is not served here (if it is yours, list it in hosts in [server])"
)
UNKNOWN_APP: Final = Refusal(status=404, reason="unknown_app", message="no app is served at this path")
NO_SUCH_PATH: Final = Refusal(status=404, reason="unknown_app", message="the name of a room must not have a slash")
NO_ROOM: Final = Refusal(status=400, reason="bad_name", message="the name of a room is missing: add it to the end of the path")
PAGES_ALONE: Final = Refusal(status=404, reason="no_rooms", message="this app has no rooms, only pages")
BAD_NAME: Final = Refusal(status=400, reason="bad_name", message="this is not a name a room can have")
RESERVED_NAME: Final = Refusal(status=400, reason="reserved_name", message="this name is reserved: choose another")
NOT_LISTED: Final = Refusal(status=404, reason="not_listed", message="the rooms of this app do not include this one")
NO_DESCRIPTORS: Final = Refusal(
    status=503, reason="descriptors", message="the server has too many open files: try again later", retry_after=RETRY_AFTER
)
WRONG_ORIGIN: Final = Refusal(status=403, reason="origin", message="pages of this origin may not connect (see origins)")
TOO_FAST: Final = Refusal(status=429, reason="connect_rate", message="too many connections a second from this address")
TOO_MANY_FROM_ADDRESS: Final = Refusal(
    status=429, reason="too_many_from_address", message="too many connections from this address"
)
APP_DRAINED: Final = Refusal(
    status=503, reason="app_drained", message="this app takes no clients for now", retry_after=RETRY_AFTER
)
OWNER_BUSY: Final = Refusal(
    status=503, reason="owner_busy", message="the server is busy: try again later", retry_after=RETRY_AFTER
)
DRAINING: Final = Refusal(status=503, reason="draining", message="the server is shutting down", retry_after=RETRY_AFTER)


def refuse_denied(denial: Denial, app: App) -> Refusal:
    """Return the refusal of a client that was not let in. A 401 names the schemes that the app knows (RFC 9110 11.6.1)."""
    challenges = ()
    if denial.status == 401 and app.auth is not None:
        basic = (f'Basic realm="{app.name}", charset="UTF-8"',) if app.auth.users_file is not None else ()
        challenges = (*basic, f'Bearer realm="{app.name}"')
    return Refusal(
        status=denial.status,
        reason=denial.reason,
        message=denial.message,
        retry_after=denial.retry_after,
        challenges=challenges,
    )
