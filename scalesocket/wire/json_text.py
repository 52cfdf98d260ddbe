"""JSON as text: the same value spelled without certain characters."""

import re
import string
from typing import Final

_TOKEN: Final = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\r\n]+')
"""A string, or the whitespace between tokens; what else stands in JSON is left alone."""
_OF_ESCAPES: Final = frozenset(string.ascii_letters + string.digits + '"\\/')


def escape_character(character: str) -> str:
    """Spell a character the way JSON can without it (RFC 8259 7)."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


class OneLine:
    """Rewrites JSON so that no delimiter stands in it, and loses nothing.

    Between the tokens of JSON there is only whitespace, which goes; within a string any character can be escaped.
    """

    __slots__ = ("_escapes",)

    def __init__(self, delimiters: str) -> None:
        """Keep the characters in `delimiters` out, but for letters, digits, quotes and slashes: JSON's own escapes hold them."""
        self._escapes = {ord(character): escape_character(character) for character in delimiters if character not in _OF_ESCAPES}

    def __call__(self, text: bytes) -> bytes:
        """Rewrite one JSON text; bytes that are not UTF-8 stay as they are."""
        return _TOKEN.sub(self._rewrite, text.decode(errors="surrogateescape")).encode(errors="surrogateescape")

    def _rewrite(self, token: re.Match[str]) -> str:
        return token[1].translate(self._escapes) if token[1] else ""
