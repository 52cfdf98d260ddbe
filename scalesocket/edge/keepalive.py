"""Keepalive of one connection: when it is pinged, and when it is closed because nothing came from its peer.

These deadlines move with every message, so they are checked by a sweep (`rooms/sweep.py`); a timer for each client would cost
more than the message.
"""

import time
from typing import Final

from scalesocket.auth.identity import Identity
from scalesocket.config.model import App
from scalesocket.edge.client import Client
from scalesocket.errors import CLIENT_IDLE, CREDENTIAL_EXPIRED, PONG_MISSING, Close

JITTER: Final = 0.2
"""The part of `ping_interval` by which pings may come early, so that clients that joined together are not pinged together."""
GOLDEN: Final = 0.6180339887498949
"""The golden ratio: the fractional parts of its multiples are spread evenly over the unit interval."""


def check_keepalive(client: Client, app: App, now: float) -> Close | None:
    """Ping a client if a ping is due; return how to close it if one of its deadlines has passed.

    These are the expiry of its credential, its `client_idle_timeout` and its `ping_timeout`.

    A client that is not read, or whose ping has not left the server, is excused: its pong may be on the way.
    """
    if client.identity is not None and is_expired(client.identity, app):
        return CREDENTIAL_EXPIRED
    is_unanswered = client.last_ping_at > client.last_received_at
    if client.held:
        client.last_message_at = client.pong_excused_at = now
    elif is_unanswered and client.unsent:
        client.pong_excused_at = now
    if app.client_idle_timeout is not None and now - client.last_message_at >= app.client_idle_timeout:
        return CLIENT_IDLE
    if is_unanswered and client.pong_excused_at != now:
        if now - max(client.last_ping_at, client.pong_excused_at) >= app.ping_timeout:
            return PONG_MISSING
    elif now - max(client.last_received_at, client.last_ping_at) >= app.ping_interval * (1 - JITTER * (client.id * GOLDEN % 1)):
        # Also while a ping is unanswered and excused: only a failing send reveals that an unread peer has vanished.
        client.last_ping_at = now
        client.ping()
    return None


def is_expired(identity: Identity, app: App) -> bool:
    """Whether a credential has expired, and `grace` has passed since. Without `auth`, after an edit, nothing expires."""
    if identity.expires_at is None or app.auth is None:
        return False
    return time.time() >= identity.expires_at + app.auth.grace
