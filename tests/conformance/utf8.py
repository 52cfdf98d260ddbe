"""Byte sequences that are UTF-8 (RFC 3629), and sequences that are not."""

from typing import Final

GREEK: Final = "κόσμε".encode()

VALID: Final[dict[str, bytes]] = {
    "mixed": "Hello-µ@ßöäüàá-UTF-8!!".encode(),
    "greek": GREEK,
    "emoji": "🎲🐉".encode(),
    "null": b"\0ab",
    "first of 2 bytes": "\u0080".encode(),
    "first of 3 bytes": "\u0800".encode(),
    "first of 4 bytes": "\U00010000".encode(),
    "last of 1 byte": b"\x7f",
    "last of 2 bytes": "\u07ff".encode(),
    "last of 3 bytes": "\uffff".encode(),
    "last of 4 bytes": "\U0010ffff".encode(),
    "before the surrogates": "\ud7ff".encode(),
    "after the surrogates": "\ue000".encode(),
    "replacement character": "\ufffd".encode(),
    "noncharacters": "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)).encode(),
}

INVALID: Final[dict[str, bytes]] = {
    "byte fe": b"\xfe",
    "byte ff": b"\xff",
    "bytes fe and ff": b"\xfe\xfe\xff\xff",
    "5 bytes": b"\xf8\x88\x80\x80\x80",
    "6 bytes": b"\xfc\x84\x80\x80\x80\x80",
    "above the last": b"\xf4\x90\x80\x80",
    "above the last, by its first byte": b"\xf5\x80\x80\x80",
    "in the middle of a text": GREEK + b"\xed\xa0\x80" + b"edited",
    **{f"{count} continuations alone": b"\x80\xbf" * (count // 2) + b"\x80" * (count % 2) for count in (1, 2, 3, 7, 64)},
    **{f"lead {lead:02x} before a space": bytes((lead, 0x20)) for lead in (0xC2, 0xDF, 0xE0, 0xEF, 0xF0, 0xF4)},
    **{
        f"incomplete at the end: {part.hex()}": part for part in (b"\xc2", b"\xe0\xa0", b"\xef\xbf", b"\xf0\x90\x80", b"\xf4\x8f")
    },
    "incomplete, then complete": b"\xe2\x82" + "€".encode(),
    "overlong of 2 bytes": b"\xc0\xaf",
    "overlong of 3 bytes": b"\xe0\x80\xaf",
    "overlong of 4 bytes": b"\xf0\x80\x80\xaf",
    "largest overlong of 2 bytes": b"\xc1\xbf",
    "largest overlong of 3 bytes": b"\xe0\x9f\xbf",
    "largest overlong of 4 bytes": b"\xf0\x8f\xbf\xbf",
    "overlong null": b"\xc0\x80",
    "surrogate": b"\xed\xa0\x80",
    "last surrogate": b"\xed\xbf\xbf",
    "pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
}
