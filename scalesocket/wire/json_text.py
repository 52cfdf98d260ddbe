"""Rewriting JSON text without certain characters, with the same value."""

import re
import string
from typing import Final

_TOKEN: Final = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\r\n]+')
"""A string, or the whitespace between tokens. All other tokens stay as they are."""
_OF_ESCAPES: Final = frozenset(string.ascii_letters + string.digits + '"\\/')


def escape_character(character: str) -> str:
    """Return the JSON escape of a character (RFC 8259 7)."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


class OneLine:
    """Rewrites JSON as one line without delimiters in it.

    Whitespace between tokens is removed; delimiters within strings are escaped.
    """

    __slots__ = ("_escapes",)

    def __init__(self, delimiters: str) -> None:
        """Escape the characters of `delimiters`, except letters, digits, quotes and slashes, which escapes of JSON consist of."""
        self._escapes = {ord(character): escape_character(character) for character in delimiters if character not in _OF_ESCAPES}

    def __call__(self, text: bytes) -> bytes:
        """Rewrite one JSON text. Bytes that are not UTF-8 stay as they are."""
        return _TOKEN.sub(self._rewrite, text.decode(errors="surrogateescape")).encode(errors="surrogateescape")

    def _rewrite(self, token: re.Match[str]) -> str:
        return token[1].translate(self._escapes) if token[1] else ""
