"""A text that tomli refused, seen from the offset where it stopped: which statement that is in, and what is open there."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from scalesocket.config.positions import KeyPath, Span, find_last_statement, scan_key
from scalesocket.config.problems import quote

_LONGEST_EXAMPLE: Final = 60
_PIECE: Final = re.compile(
    r'"""(?:[^\\]|\\[\s\S])*?"""|' + r"'''[\s\S]*?'''|" + r'"(?!"")(?:[^"\\\n]|\\.)*"|' + r"'(?!'')[^'\n]*'|"
    r"#[^\n]*|[\[{\]}]|[^\"'#\[\]{}]+"
)
"""A string, a comment, a bracket, or what stands between them; nothing where a string is not closed."""
CURLY: Final = "“”„‟«»‘’‚‛`´"
"""What word processors make of quotes."""


@dataclass(frozen=True)  # without slots, which a cached property cannot do with
class Broken:
    """A text that is not TOML, and where that was found out."""

    text: str
    shown: str
    """The text with its secrets starred out, for examples."""
    at: int
    """Where tomli stopped."""

    @cached_property
    def start(self) -> int:
        """Where the statement begins in which it stopped."""
        return find_last_statement(self.text[: self.at])[0]

    @cached_property
    def path(self) -> KeyPath:
        """The key or the table that the statement sets, from the top; as much of it as could be read."""
        start, table = find_last_statement(self.text[: self.at])
        names = tuple(name for name, _ in scan_key(self.text[: self.at], start + len(self.brackets)))
        return names if self.brackets else (*table, *names)

    @property
    def brackets(self) -> str:
        """What opens the header that the statement is; empty for a key and its value."""
        match = re.match(r"\[{0,2}", self.text[self.start :])
        return match[0] if match else ""

    @property
    def key(self) -> Span:
        """The key or the name in the header, all parts of it."""
        parts = scan_key(self.text[: self.at], self.start + len(self.brackets))
        return Span(parts[0][1].start, parts[-1][1].end) if parts else Span(self.at, self.at + 1)

    @property
    def here(self) -> Span:
        """The character where it stopped."""
        return Span(self.at, self.at + 1)

    @property
    def char(self) -> str:
        """That character; empty at the end of the text."""
        return self.text[self.at : self.at + 1]

    @property
    def is_at_end(self) -> bool:
        """Whether nothing but blanks and comments is left of the text."""
        return not re.sub(r"#[^\n]*", "", self.text[self.at :]).strip()

    @property
    def rest(self) -> Span:
        """From here to the end of the line or its comment, without blanks."""
        written = self.text[self.at :].partition("\n")[0].partition("#")[0].rstrip()
        return Span(self.at, self.at + max(1, len(written)))

    @property
    def value_start(self) -> int:
        """Where the value of the statement begins."""
        equals = self.text.find("=", self.key.end)
        return len(self.text) - len(self.text[equals + 1 :].lstrip(" \t"))

    def line(self, offset: int) -> int:
        """The number of the line that holds a character."""
        return self.text.count("\n", 0, offset) + 1

    def unclosed(self) -> tuple[int | None, int | None]:
        """Of what this statement opens: the innermost bracket that is not closed here, and a quote that is not."""
        opened: list[int] = []
        at = self.start
        while at < self.at:
            piece = _PIECE.match(self.text, at, self.at)
            if piece is None:
                return (opened[-1] if opened else None), at
            if piece[0] in ("[", "{"):
                opened.append(at)
            elif piece[0] in ("]", "}") and opened:
                opened.pop()
            at = piece.end()
        return (opened[-1] if opened else None), None

    def example(self, span: Span) -> str:
        """A piece of the text as the string it was probably meant to be; an ellipsis for what is too long to show."""
        word = self.shown[span.start : span.end].strip().strip("\"'" + CURLY)
        return quote(word) if len(word) <= _LONGEST_EXAMPLE and "\n" not in word else '"…"'
