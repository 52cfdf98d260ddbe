"""One TOML text with the places of its keys."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli
from pydantic import BaseModel

from scalesocket.config.model import App, Server
from scalesocket.config.positions import Entry, KeyPath, Lines, Span, scan_positions
from scalesocket.config.problems import ConfigError, Place, Problem
from scalesocket.config.secrets import is_secret, secret_names, star_assignments
from scalesocket.config.syntax import explain_syntax


@dataclass(frozen=True, slots=True, kw_only=True)
class TomlDocument:
    """A file that tomli accepted. Nothing is known yet of what it means."""

    file: Path
    """As it was named to us."""
    folder: Path
    """Absolute; where its relative paths start."""
    tables: Mapping[str, Any]
    entries: Mapping[KeyPath, Entry]
    lines: Lines
    """Of the text with its secrets starred out."""

    def written(self, path: KeyPath) -> KeyPath:
        """As much of `path` as stands in the document: `routing = "x"` has no `routing.client`."""
        return next((path[:end] for end in range(len(path), 0, -1) if path[:end] in self.entries), path)

    def value_place(self, path: KeyPath) -> Place:
        """Where the value at `path` stands, or the innermost table or array on the way there that does."""
        entry = self.entries.get(self.written(path))
        return Place(file=self.file) if entry is None else _place(self.file, self.lines, entry.value)

    def key_place(self, path: KeyPath) -> Place:
        """Where the key at `path` stands, or the innermost one on the way there that does."""
        entry = self.entries.get(self.written(path))
        return Place(file=self.file) if entry is None else _place(self.file, self.lines, entry.key)


def parse_document(text: str, file: Path) -> TomlDocument:
    """Read a TOML text; raises ConfigError with the place of the first thing that is not TOML."""
    text = re.sub(r"\r+\n", "\n", text.removeprefix("\ufeff"))  # some tools write CR CR LF
    try:
        tables = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(text, file, error)]) from None
    except (RecursionError, ValueError) as error:  # a ValueError: Python reads no number of more than 4,300 digits
        message = "arrays or tables are nested too deeply" if isinstance(error, RecursionError) else "a number is far too long"
        raise ConfigError([Problem(place=Place(file=file), message=message)]) from None
    entries = scan_positions(text)
    return TomlDocument(
        file=file,
        folder=file.absolute().parent,
        tables=tables,
        entries=entries,
        lines=Lines(_star_out(text, entries)),
    )


def model_at(path: KeyPath) -> tuple[type[BaseModel], KeyPath] | None:
    """The model of the section that `path` leads into, and the path from there on; None outside of all sections."""
    match path:
        case ("server", *rest):
            return Server, tuple(rest)
        case ("defaults", *rest) | ("apps", _, *rest):
            return App, tuple(rest)
    return None


def _syntax_problem(text: str, file: Path, error: tomli.TOMLDecodeError) -> Problem:
    shown = star_assignments(text, secret_names(Server, App))
    fault = explain_syntax(text, shown, error.pos)
    return Problem(place=_place(file, Lines(shown), fault.span), message=fault.message)


def _place(file: Path, lines: Lines, span: Span) -> Place:
    line, column = lines.locate(span.start)
    source = lines.line(line)
    width = max(1, min(span.end - span.start, len(source) - column + 1))
    return Place(file=file, line=line, column=column, width=width, source=source)


def _star_out(text: str, entries: Mapping[KeyPath, Entry]) -> str:
    """Replace each character of secret values by a star; columns stay what they were."""
    for span in _secret_spans(entries):
        starred = "".join(character if character == "\n" else "*" for character in text[span.start : span.end])
        text = text[: span.start] + starred + text[span.end :]
    return text


def _secret_spans(entries: Mapping[KeyPath, Entry]) -> Iterator[Span]:
    for path, entry in entries.items():
        found = model_at(path)
        if found is not None and is_secret(*found):
            yield entry.value
