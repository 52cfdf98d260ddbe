"""Valid UTF-8 for text messages: browsers close a websocket with 1007 if a text is not valid (RFC 6455 8.1)."""

from typing import Final

from scalesocket.wire.routed import Notice

INVALID_UTF8: Final = Notice("a record is not UTF-8: its bad bytes were sent as U+FFFD (binary = true sends them as they are)")


def is_utf8(text: bytes) -> bool:
    """Return whether `text` is valid UTF-8 (RFC 3629)."""
    if text.isascii():  # faster than decoding
        return True
    try:
        str(text, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def replace_invalid_utf8(text: bytes) -> bytes:
    """Replace what is not UTF-8 by U+FFFD."""
    return text if is_utf8(text) else text.decode(errors="replace").encode()
