"""Hypercorn's settings."""

import logging
from typing import Final

from hypercorn.config import Config

from scalesocket.config.units import KiB
from scalesocket.status import HasSite

KEEP_ALIVE: Final = 15.0
"""Seconds for which an idle connection stays open, and in which the head of a next request must arrive."""
MAX_HEAD: Final = 32 * KiB
"""Bytes of a request head (HTTP/1.1), or of its decompressed header fields (HTTP/2)."""
MAX_STREAMS: Final = 100
"""Concurrent requests and websockets on one HTTP/2 connection."""


class SiteConfig(Config):
    """Hypercorn's settings for a running site. Those that depend on the site file are read from it at each use."""

    keep_alive_timeout = KEEP_ALIVE
    h11_max_incomplete_size = MAX_HEAD
    h2_max_header_list_size = MAX_HEAD
    h2_max_concurrent_streams = MAX_STREAMS
    include_server_header = False
    errorlog = logging.getLogger("hypercorn.error")

    def __init__(self, running: HasSite) -> None:
        self._running = running

    @property
    def websocket_max_message_size(self) -> int:  # type: ignore[override]
        """The largest `max_message` of all apps, read when a websocket opens. Each client checks that of its own app."""
        return max((app.max_message for app in self._running.site.apps.values()), default=0)

    @property
    def websocket_ping_interval(self) -> float | None:  # type: ignore[override]
        """The shortest `ping_interval` of all apps, read before each ping."""
        return min((app.ping_interval for app in self._running.site.apps.values()), default=None)
