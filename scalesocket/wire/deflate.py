"""permessage-deflate (RFC 7692) without context takeover, so that a broadcast is compressed once for all clients."""

import re
import zlib
from typing import Final, NamedTuple

RESPONSE: Final = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
"""The response to an accepted offer. Neither side keeps a window, so an idle client takes no memory for it."""
MAX_WINDOW: Final = 15
"""The largest window of deflate, in bits (RFC 1951 2)."""

_TAIL: Final = b"\x00\x00\xff\xff"
_LAST_BLOCK: Final = b"\x01\x00\x00\xff\xff"
_PARAMETER: Final = re.compile(r"\s*([a-z_]+)\s*(?:=\s*\"?([1-9][0-9]?)\"?\s*)?")
_MIN_ZLIB_WINDOW: Final = 9
_LEVEL: Final = 3  # a third of the time of level 6, and nine tenths of its gain for JSON


class Agreement(NamedTuple):
    """permessage-deflate as agreed on with one client."""

    response: str
    """The value of `Sec-WebSocket-Extensions`."""
    window: int
    """The largest window of messages to the client, in bits: 8 to 15."""


def answer_offers(header: str) -> Agreement | None:
    """Return the agreement on the first acceptable offer of `Sec-WebSocket-Extensions`; None if there is none."""
    return next((agreed for offer in header.lower().split(",") if (agreed := _answer(offer))), None)


def _answer(offer: str) -> Agreement | None:
    name, *parameters = offer.split(";")
    if name.strip() != "permessage-deflate":
        return None
    seen: dict[str, str | None] = {}
    for parameter in parameters:
        match = _PARAMETER.fullmatch(parameter)
        if match is None or match[1] in seen:
            return None
        seen[match[1]] = match[2]
    for key, value in seen.items():
        match key:
            case "server_no_context_takeover" | "client_no_context_takeover":
                if value is not None:
                    return None
            case "client_max_window_bits":
                if value is not None and not 8 <= int(value) <= MAX_WINDOW:
                    return None
            case "server_max_window_bits":
                if value is None or not 8 <= int(value) <= MAX_WINDOW:
                    return None
            case _:
                return None
    window = seen.get("server_max_window_bits")
    if window is None:
        return Agreement(RESPONSE, MAX_WINDOW)
    return Agreement(f"{RESPONSE}; server_max_window_bits={window}", int(window))  # RFC 7692 7.1.2.1


def deflate(payload: bytes, window: int = MAX_WINDOW) -> bytes:
    """Compress a message with a window of at most `window` bits, and remove the empty block at its end (RFC 7692 7.2.1)."""
    # A window of the size of the message suffices, and a small one is set up faster. zlib has no window of 8 bits for raw
    # deflate; with one of 9 bits it looks back at most 512 - 262 bytes (MAX_DIST in deflate.h), which 8 bits can address.
    bits = max(_MIN_ZLIB_WINDOW, min(window, len(payload).bit_length()))
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
