"""Limits that hold on both lanes."""

from typing import Final

from scalesocket.config.model import App
from scalesocket.config.units import KiB

HIGH_WATER: Final = 256 * KiB
"""Unsent bytes above which a client counts as congested, unless its `send_buffer` is smaller."""
CLOSE_TIMEOUT: Final = 2.0
"""Seconds that a peer has to answer a close frame, or to close its side after a last response."""
FAULT_TIMEOUT: Final = 0.25
"""Seconds that a peer on the general lane has to close after its own fault. Closing at once would send a reset, if more input
arrives, and the peer could not read the close frame (RFC 9293 3.10.4)."""


def find_high_water(app: App) -> int:
    """Unsent bytes above which a client of `app` counts as congested; a quarter of that is the low-water mark."""
    return min(HIGH_WATER, app.send_buffer)
