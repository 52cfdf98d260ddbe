"""Keeps Hypercorn from accepting permessage-deflate, which `compression` cannot switch there.

wsproto inflates without a bound, before Hypercorn looks at the size: 61 kB became 60 MiB, and held up everyone for 0.23 s.
"""

from hypercorn.protocol import ws_stream
from wsproto.extensions import PerMessageDeflate


class NoDeflate(PerMessageDeflate):
    """The extension, declining every offer (RFC 7692 5.1)."""

    def accept(self, offer: str) -> None:
        """Decline."""


def decline_deflate() -> None:
    """Have Hypercorn decline from now on. Calls may repeat."""
    vars(ws_stream)["PerMessageDeflate"] = NoDeflate
