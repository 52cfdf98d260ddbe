"""permessage-deflate (RFC 7692) without context takeover, so that a broadcast is compressed once for all clients."""

import re
import zlib
from typing import Final

RESPONSE: Final = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
"""The response to an accepted offer. Neither side keeps a window, so an idle client takes no memory for it."""
WINDOW: Final = "; server_max_window_bits=15"
"""Appended to RESPONSE if the offer has this parameter (RFC 7692 7.1.2.1)."""

_TAIL: Final = b"\x00\x00\xff\xff"
_LAST_BLOCK: Final = b"\x01\x00\x00\xff\xff"
_PARAMETER: Final = re.compile(r"\s*([a-z_]+)\s*(?:=\s*\"?([1-9][0-9]?)\"?\s*)?")
_LEVEL: Final = 3  # a third of the time of level 6, and nine tenths of its gain for JSON


def answer_offers(header: str) -> str:
    """Return the response to the first acceptable offer of `Sec-WebSocket-Extensions`; empty if there is none.

    Offers with `server_max_window_bits` below 15 are declined, because broadcasts are compressed with a window of 15 bits.
    """
    return next((answer for offer in header.lower().split(",") if (answer := _answer(offer))), "")


def _answer(offer: str) -> str:
    name, *parameters = offer.split(";")
    if name.strip() != "permessage-deflate":
        return ""
    seen: dict[str, str | None] = {}
    for parameter in parameters:
        match = _PARAMETER.fullmatch(parameter)
        if match is None or match[1] in seen:
            return ""
        seen[match[1]] = match[2]
    for key, value in seen.items():
        match key:
            case "server_no_context_takeover" | "client_no_context_takeover":
                if value is not None:
                    return ""
            case "client_max_window_bits":
                if value is not None and not 8 <= int(value) <= 15:
                    return ""
            case "server_max_window_bits":
                if value != "15":
                    return ""
            case _:
                return ""
    return RESPONSE + (WINDOW if "server_max_window_bits" in seen else "")


def deflate(payload: bytes) -> bytes:
    """Compress a message, and remove the empty block at its end (RFC 7692 7.2.1)."""
    # A window of the size of the message suffices, and a small one is set up faster.
    bits = min(15, max(9, len(payload).bit_length()))
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -bits, memLevel=min(8, bits - 6))
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]


def inflate(payload: bytes, limit: int) -> bytes | None:
    """Decompress a message; None if it is longer than `limit` bytes. Raises ValueError for damaged or incomplete data."""
    decompressor = zlib.decompressobj(-15)
    try:
        message = decompressor.decompress(payload + _TAIL + _LAST_BLOCK, limit + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(message) > limit:
        return None
    if not decompressor.eof:
        raise ValueError("the end is missing")
    return message
