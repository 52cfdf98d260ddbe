"""Text that a browser accepts: a text message that is not UTF-8 would close the websocket with 1007 (RFC 6455 8.1)."""

from typing import Final

from scalesocket.wire.routed import Notice

MENDED: Final = Notice("a record is not UTF-8: its bad bytes were sent as U+FFFD (binary = true sends them as they are)")


def is_utf8(text: bytes) -> bool:
    """Say whether `text` is valid UTF-8 (RFC 3629)."""
    if text.isascii():  # 4 us for 64 KiB
        return True
    try:
        str(text, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def mend_utf8(text: bytes) -> bytes:
    """Put U+FFFD in place of what is not UTF-8."""
    return text if is_utf8(text) else text.decode(errors="replace").encode()
