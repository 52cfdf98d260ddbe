"""The connected clients that a stricter rule would not let in again. Pure.

Credentials are not kept, so only the way is judged by which a client was let in. That a key, an audience or the content of a
file changed is not seen here.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from scalesocket.auth.identity import Identity
from scalesocket.config.model import Auth

WAY_OF_METHOD: Final[Mapping[str, str]] = {
    "jwt": "jwt",
    "token": "tokens_file",
    "basic": "users_file",
    "header": "header",
    "hook": "hook",
}
"""The key of `auth` that lets in the clients with each `Identity.method`."""
GUEST: Final = "guest"


def is_kept_out(identity: Identity | None, auth: Auth | None) -> bool:
    """Whether `auth` would no longer let a client in that was let in as `identity`; None: in an app without `auth`."""
    if auth is None:
        return False
    if identity is None or identity.method == "anonymous":
        return not auth.anonymous
    if identity.method == "ticket":
        return "ticket" not in auth.places or all(getattr(auth, way) is None for way in WAY_OF_METHOD.values())
    return getattr(auth, WAY_OF_METHOD[identity.method]) is None


def find_kept_out(identities: Iterable[Identity | None], auth: Auth | None) -> tuple[str, ...]:
    """List the users that `auth` would no longer let in, one for each client; GUEST for a client without a user."""
    return tuple(
        identity.user if identity is not None and identity.user is not None else GUEST
        for identity in identities
        if is_kept_out(identity, auth)
    )
