"""Wrong tokens of each address: after some, answers are slowed down; after more, they get 429 for a while."""

import math
from collections import OrderedDict, deque
from typing import Final

from scalesocket.wire.address import block_of

WINDOW: Final = 60.0
"""Seconds for which a wrong token counts."""
FREE: Final = 10
"""Wrong tokens in WINDOW that are answered at once."""
LIMIT: Final = 20
"""Wrong tokens in WINDOW after which every request of the address without the right one gets 429."""
STEP: Final = 0.2
"""Seconds by which each wrong token after FREE is answered later than the one before."""
MAX_BLOCKS: Final = 4096
"""Address blocks that are remembered, at most 1 KiB each. Beyond that the one that failed least recently is forgotten."""

Peer = tuple[str, int] | None
"""A caller's address and port; None on a unix socket."""


class WrongTokens:
    """Counts wrong tokens by address block (see `block_of`). All callers of a unix socket are one block."""

    def __init__(self) -> None:
        """Start without any."""
        self._times: OrderedDict[str, deque[float]] = OrderedDict()
        """The times of the last LIMIT wrong tokens; the block that failed least recently is first."""

    def __len__(self) -> int:
        """The number of blocks that are remembered."""
        return len(self._times)

    def wait(self, peer: Peer, now: float) -> int:
        """Return the seconds until an address is answered again; 0 if it is answered now."""
        times = self._times.get(_block(peer))
        if times is None or len(times) < LIMIT:
            return 0
        return max(0, math.ceil(times[0] + WINDOW - now))

    def add(self, peer: Peer, now: float) -> float:
        """Count a wrong token; return the seconds by which to delay its answer."""
        block = _block(peer)
        times = self._times.setdefault(block, deque(maxlen=LIMIT))
        times.append(now)
        self._times.move_to_end(block)
        if len(self._times) > MAX_BLOCKS:
            self._times.popitem(last=False)
        recent = sum(now - at < WINDOW for at in times)
        return STEP * max(0, recent - FREE)


def _block(peer: Peer) -> str:
    return "" if peer is None else block_of(peer[0])
