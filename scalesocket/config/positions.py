"""Positions of the keys and values of a TOML text, which TOML libraries do not report.

The scanner reads texts that tomli has accepted, so it checks nothing. A test compares its paths with tomli's.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import tomli

KeyPath = tuple[str | int, ...]
"""The keys and array indexes that lead to a value."""

_BLANK: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_BASIC: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL: Final = re.compile(r"'[^'\n]*'")
_LONG_BASIC: Final = re.compile(r'"""(?:[^\\]|\\[\s\S])*?"""(?:"{0,2})')
_LONG_LITERAL: Final = re.compile(r"'''[\s\S]*?'''(?:'{0,2})")
_SCALAR: Final = re.compile(r"[^,\]}#\n]*")


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text: the offsets of its first character and of the one after its last."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Entry:
    """The positions of a key and its value. For a table with a header, both are the name in the header."""

    key: Span
    value: Span


class Lines:
    """Converts offsets of a text to lines and columns, both from 1."""

    def __init__(self, text: str) -> None:
        """Index the lines of `text`, which end with single line feeds."""
        self._lines = text.split("\n")
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line) + 1)

    def locate(self, offset: int) -> tuple[int, int]:
        """Return the line and column of the character at `offset`."""
        line = min(bisect_right(self._starts, offset), len(self._lines))
        return line, offset - self._starts[line - 1] + 1

    def line(self, number: int) -> str:
        """Return the text of a line, without its end."""
        return self._lines[number - 1] if 1 <= number <= len(self._lines) else ""


def scan_positions(text: str) -> Mapping[KeyPath, Entry]:
    """Find every table, key and array item of a valid TOML text, whose lines end with single line feeds."""
    scanner = _Scanner(text)
    scanner.scan()
    return scanner.entries


def find_last_statement(text: str) -> tuple[int, KeyPath]:
    """Find the start of the last statement, and its table. The last statement may be incomplete."""
    scanner = _Scanner(text)
    with suppress(AssertionError, IndexError, RecursionError, tomli.TOMLDecodeError):
        scanner.scan()
    return scanner.start, scanner.table


def scan_key(text: str, start: int) -> Sequence[tuple[str, Span]]:
    """Read the parts of the dotted key at `start`; an incomplete key as far as possible."""
    scanner = _Scanner(text + "=")
    scanner.at = start
    try:
        return scanner.key()
    except (AssertionError, tomli.TOMLDecodeError):
        return ()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.start = 0
        """The start of the current statement."""
        self.table: KeyPath = ()
        """The table of the current statement."""
        self.entries: dict[KeyPath, Entry] = {}
        self._items: dict[KeyPath, int] = {}
        """The number of tables in each array of tables so far."""

    def scan(self) -> None:
        self._skip_blank()
        while self.at < len(self.text):
            self.start = self.at
            if self.text[self.at] == "[":
                self.table = self._header()
            else:
                self._pair(self.table)
            self._skip_blank()

    def _header(self) -> KeyPath:
        is_item = self.text.startswith("[[", self.at)
        self.at += 2 if is_item else 1
        parts = self.key()
        self.at += 2 if is_item else 1
        path: KeyPath = ()
        for name, span in parts[:-1]:
            path = (*path, name)
            self.entries.setdefault(path, Entry(span, span))
            if path in self._items:
                path = (*path, self._items[path] - 1)
        name, span = parts[-1]
        path = (*path, name)
        self.entries[path] = Entry(span, span)
        if is_item:
            self._items[path] = self._items.get(path, 0) + 1
            path = (*path, self._items[path] - 1)
            self.entries[path] = Entry(span, span)
        return path

    def _pair(self, table: KeyPath) -> None:
        parts = self.key()
        self.at += 1  # the equals sign
        self._skip_blank()
        path = table
        for name, span in parts[:-1]:
            path = (*path, name)
            self.entries.setdefault(path, Entry(span, span))
        name, span = parts[-1]
        self._value((*path, name), span)

    def key(self) -> list[tuple[str, Span]]:
        """Read a dotted key with the blanks around it."""
        parts = []
        while True:
            self._skip_blank()
            start = self.at
            quote = self.text[start]
            pattern = {'"': _BASIC, "'": _LITERAL}.get(quote, _BARE_KEY)
            written = self._take(pattern)
            name = tomli.loads(f"name = {written}")["name"] if quote in "\"'" else written
            parts.append((name, Span(start, self.at)))
            self._skip_blank()
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def _value(self, path: KeyPath, key: Span | None) -> None:
        start = self.at
        self.entries[path] = Entry(key or Span(start, start), Span(start, start))  # before its items, as in the text
        match self.text[start]:
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case '"':
                self._take(_LONG_BASIC if self.text.startswith('"""', start) else _BASIC)
            case "'":
                self._take(_LONG_LITERAL if self.text.startswith("'''", start) else _LITERAL)
            case _:
                self.at = start + len(self._take(_SCALAR).rstrip())
        value = Span(start, self.at)
        self.entries[path] = Entry(key or value, value)

    def _array(self, path: KeyPath) -> None:
        self.at += 1
        self._skip_blank()
        index = 0
        while self.text[self.at] != "]":
            self._value((*path, index), None)
            index += 1
            self._skip_comma()
        self.at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        self._skip_blank()
        while self.text[self.at] != "}":
            self._pair(path)
            self._skip_comma()
        self.at += 1

    def _skip_comma(self) -> None:
        self._skip_blank()
        if self.text[self.at] == ",":
            self.at += 1
            self._skip_blank()

    def _skip_blank(self) -> None:
        self._take(_BLANK)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        assert match is not None, f"not TOML at offset {self.at}"
        self.at = match.end()
        return match[0]
