"""Errors of TOML syntax: what was probably meant, and what to write instead.

Common faults are recognized from the text and the offset at which the TOML library stopped, never from its message, which may
change with any version. All others are reported as "not valid TOML here", with line and column.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import tomli

from scalesocket.config.positions import KeyPath, Span, find_last_statement, scan_key, scan_positions
from scalesocket.config.problems import key_text, quote

_LONGEST_EXAMPLE: Final = 60
_CURLY_QUOTES: Final = "“”„‟«»‘’‚‛`´"
_FOREIGN_VALUES: Final = {
    **dict.fromkeys(("true", "yes", "on"), "write true"),
    **dict.fromkeys(("false", "no", "off"), "write false"),
    **dict.fromkeys(("none", "null", "nil"), "delete the line; a key that is not set has its default"),
}
"""Values as other languages write them, in lower case, and what to do."""
_NEXT_STATEMENT: Final = re.compile(r"\s*(?:\[|[\w.\-]+[ \t]*=)")
_PIECE: Final = re.compile(
    r'"""(?:[^\\]|\\[\s\S])*?"""|' + r"'''[\s\S]*?'''|" + r'"(?!"")(?:[^"\\\n]|\\.)*"|' + r"'(?!'')[^'\n]*'|"
    r"#[^\n]*|[\[{\]}]|[^\"'#\[\]{}]+"
)
"""A string, a comment, a bracket, or the text between them. Does not match a string that is not closed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and the part of the text that causes it."""

    message: str
    span: Span


def explain_syntax(text: str, shown: str, at: int) -> Fault:
    """Explain what is wrong with a text that is not TOML. Its lines end with single line feeds.

    `at` is the offset at which parsing stopped. `shown` is the text with its secrets masked, character by character; examples
    are taken from it.
    """
    statement = _Statement(text, shown, at, *find_last_statement(text[:at]))
    find = _string if statement.unclosed[1] is not None else _header if statement.brackets else _pair
    return _invisible_character(statement) or find(statement) or Fault("not valid TOML here", statement.here)


@dataclass(frozen=True)  # without slots, which do not allow cached properties
class _Statement:
    """The statement in which parsing stopped: a header, or a key and its value."""

    text: str
    shown: str
    at: int
    start: int
    table: KeyPath
    """The table that the statement belongs to."""

    @cached_property
    def brackets(self) -> str:
        """The brackets that open a header; empty for a key and its value."""
        return "[[" if self.text.startswith("[[", self.start) else "[" if self.text.startswith("[", self.start) else ""

    @cached_property
    def path(self) -> KeyPath:
        """The key or table that the statement sets, from the top; as much of it as could be read."""
        names = tuple(name for name, _ in scan_key(self.text[: self.at], self.start + len(self.brackets)))
        return names if self.brackets else (*self.table, *names)

    @cached_property
    def key(self) -> Span:
        """The key, or the name in the header."""
        parts = scan_key(self.text[: self.at], self.start + len(self.brackets))
        return Span(parts[0][1].start, parts[-1][1].end) if parts else self.here

    @property
    def here(self) -> Span:
        return Span(self.at, self.at + 1)

    @property
    def char(self) -> str:
        """The character here; empty at the end of the text."""
        return self.text[self.at : self.at + 1]

    @property
    def rest(self) -> str:
        """The text from here to the end of the line, without a comment."""
        return self.text[self.at :].partition("\n")[0].partition("#")[0].rstrip()

    @property
    def is_at_end(self) -> bool:
        """Whether only blanks and comments are left of the whole text."""
        return not re.sub(r"#[^\n]*", "", self.text[self.at :]).strip()

    @cached_property
    def unclosed(self) -> tuple[int | None, int | None]:
        """The innermost bracket that is open here, and the quote that is; None for those that are not."""
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
        """A part of the text as a TOML string; an ellipsis if it is too long to show."""
        word = self.shown[span.start : span.end].strip().strip("\"'" + _CURLY_QUOTES)
        return quote(word) if len(word) <= _LONGEST_EXAMPLE and "\n" not in word else '"…"'


def _invisible_character(statement: _Statement) -> Fault | None:
    char = statement.char or "\n"
    if char not in " \t\n" and unicodedata.category(char) in ("Zs", "Cf", "Cc", "Zl", "Zp"):
        return Fault(f"not valid TOML: invisible character U+{ord(char):04X} (delete it)", statement.here)
    return None


def _string(statement: _Statement) -> Fault | None:
    text, at, opening = statement.text, statement.at, statement.unclosed[1] or statement.start
    closing = text[opening : opening + 3] if text[opening : opening + 3] in ('"""', "'''") else text[opening]
    backslash = text.rfind("\\", opening, at + 1)
    if statement.char not in ("", "\n"):
        message = r"not valid TOML: a backslash in double quotes starts an escape (write \\, or use single quotes)"
        return Fault(message, Span(backslash, backslash + 2)) if closing[0] == '"' and backslash > 0 else None
    where, end = ("after its last line", opening + 3) if len(closing) == 3 else ("at its end, on the same line", at)
    return Fault(f"not valid TOML: this string is not closed (write {closing} {where})", Span(opening, end))


def _header(statement: _Statement) -> Fault | None:
    if _is_toml(statement.text[statement.start :].partition("\n")[0]):
        return _repeated(statement)
    header = f"{statement.brackets}{key_text(statement.path)}{']' * len(statement.brackets)}"
    return None if statement.rest else Fault(f"not valid TOML: this header is not closed (write {header})", statement.here)


def _pair(statement: _Statement) -> Fault | None:
    text, at, bracket = statement.text, statement.at, statement.unclosed[0]
    if bracket is not None:
        return _item(statement, bracket)
    name = key_text(statement.path[len(statement.table) :])
    if not name:
        return None
    equals = len(text) - len(text[statement.key.end :].lstrip(" \t"))
    if text[equals : equals + 1] != "=":
        if text[equals : equals + 1] == ":":
            return Fault(f'not valid TOML: ":" instead of "=" (write {name} = …)', Span(equals, equals + 1))
        if "=" in statement.rest or statement.rest.startswith("]"):
            return None
        return Fault(f'not valid TOML: "=" is missing after {name} (write {name} = …)', statement.here)
    start = len(text) - len(text[equals + 1 :].lstrip(" \t"))
    value = Span(start, start + len(text[start:].partition("\n")[0].partition("#")[0].rstrip()))
    if value.start == value.end or text[start] == "=":
        return Fault('not valid TOML: the value is missing after "=" (write one, or delete the line)', Span(start, start + 1))
    if not statement.rest and _is_toml(text[statement.start : at]):
        return _repeated(statement)
    if text[start] not in "\"'[{" and statement.rest not in ("]", "}", ",", ";"):
        return _unquoted(statement, value)
    message = 'not valid TOML: more text after the value (start a new line, or write \\" for a quote inside a string)'
    return Fault(message, Span(at, at + max(1, len(statement.rest))))


def _item(statement: _Statement, bracket: int) -> Fault | None:
    """A fault within an array or an inline table."""
    text, at = statement.text, statement.at
    before = re.sub(r"(?:#[^\n]*|\s)*\Z", "", text[bracket:at])[-1:]
    is_on_new_line = not text[bracket:at].rpartition("\n")[2].strip() and "\n" in text[bracket:at]
    is_next_statement = before not in "[{,=" and is_on_new_line and _NEXT_STATEMENT.match(text, at) is not None
    if (statement.is_at_end and before != "=") or is_next_statement or (text[bracket] == "{" and statement.char == "\n"):
        kind, closing = ("array", "]") if text[bracket] == "[" else ("table", "}")
        return Fault(f'not valid TOML: this {kind} is not closed (write "{closing}" at its end)', Span(bracket, bracket + 1))
    has_no_value = text[bracket] == "{" and "=" not in re.split(r"[{,]", text[bracket:at])[-1]
    if has_no_value or statement.char in " \t\n,]}=":
        return None
    if before in "[,=":
        return _unquoted(statement, Span(at, at + max(1, len(re.split(r"[,\]}]", statement.rest)[0].rstrip()))))
    return Fault("not valid TOML: a comma or a closing quote is missing before this", Span(at, at + len(statement.rest)))


def _unquoted(statement: _Statement, span: Span) -> Fault:
    """A value without quotes that is neither a number nor a boolean nor a date."""
    written = statement.text[span.start : span.end]
    if written.lower() in _FOREIGN_VALUES:
        return Fault(f"not valid TOML: {written} is not a value ({_FOREIGN_VALUES[written.lower()]})", span)
    kind = "a string needs straight quotes" if written[0] in _CURLY_QUOTES else "a string needs quotes"
    return Fault(f"not valid TOML: {kind} (write {statement.example(span)})", span)


def _repeated(statement: _Statement) -> Fault | None:
    """A key or a table that is there already, or that a value leaves no room for."""
    path = statement.path
    known = scan_positions(statement.text[: statement.start])
    length = next((size for size in range(len(path), 0, -1) if path[:size] in known), 0)
    if not length:
        return None
    first = known[path[:length]]
    line = statement.text.count("\n", 0, first.key.start) + 1
    is_table = statement.brackets and length == len(path) and first.key == first.value
    name = f"the table [{key_text(path)}]" if is_table else key_text(path[:length])
    hint = "write the keys of both under one header" if is_table else "keep one of the two"
    return Fault(f"not valid TOML: {name} is set already, in line {line} ({hint})", statement.key)


def _is_toml(text: str) -> bool:
    try:
        tomli.loads(text)
    except (tomli.TOMLDecodeError, RecursionError, ValueError):
        return False
    return True
