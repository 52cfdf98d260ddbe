"""A parsed TOML file, and the places of its keys and values."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli
from pydantic import BaseModel

from scalesocket.config.model import App, Cluster, Server
from scalesocket.config.positions import Entry, KeyPath, Lines, Span, scan_positions
from scalesocket.config.problems import ConfigError, Place, Problem
from scalesocket.config.secrets import (
    FILE_SUFFIX,
    is_secret,
    is_url,
    mask_assignments,
    may_be_secret,
    secret_names,
    star_url,
    star_urls,
)
from scalesocket.config.syntax import explain_syntax


@dataclass(frozen=True, slots=True, kw_only=True)
class TomlDocument:
    """A file that is valid TOML. Its keys and values are not checked yet."""

    file: Path
    """The path as the caller or `include` wrote it."""
    folder: Path
    """The folder for relative paths in the file; absolute."""
    tables: Mapping[str, Any]
    entries: Mapping[KeyPath, Entry]
    lines: Lines
    """The lines of the text, with its secrets masked."""

    def written(self, path: KeyPath) -> KeyPath:
        """Shorten `path` to what is written: `routing.client` to `routing` if the file has `routing = "x"`.

        The path of a secret becomes that of the key which names its file, if that is written instead.
        """
        for end in range(len(path), 0, -1):
            if path[:end] in self.entries:
                return path[:end]
            if (named := (*path[: end - 1], f"{path[end - 1]}{FILE_SUFFIX}")) in self.entries:
                return named
        return path

    def value_place(self, path: KeyPath) -> Place:
        """Find the value at `path`, or the innermost table or array on the way there."""
        entry = self.entries.get(self.written(path))
        return Place(file=self.file) if entry is None else _place(self.file, self.lines, entry.value)

    def key_place(self, path: KeyPath) -> Place:
        """Find the key at `path`, or the innermost one on the way there."""
        entry = self.entries.get(self.written(path))
        return Place(file=self.file) if entry is None else _place(self.file, self.lines, entry.key)


def parse_document(text: str, file: Path) -> TomlDocument:
    """Parse a TOML text; raises ConfigError with the place of the first error."""
    text = re.sub(r"\r+\n", "\n", text.removeprefix("\ufeff"))  # some tools write CR CR LF
    try:
        tables = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(text, file, error)]) from None
    except (RecursionError, ValueError) as error:  # ValueError: a number of more than 4,300 digits
        message = (
            "arrays or tables are nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        )
        raise ConfigError([Problem(place=Place(file=file), message=message)]) from None
    entries = scan_positions(text)
    return TomlDocument(
        file=file,
        folder=file.absolute().parent,
        tables=tables,
        entries=entries,
        lines=Lines(_mask(text, entries)),
    )


def model_at(path: KeyPath) -> tuple[type[BaseModel], KeyPath] | None:
    """Return the model of the section that `path` leads into, and the rest of the path; None outside of all sections."""
    match path:
        case ("server", *rest):
            return Server, tuple(rest)
        case ("cluster", *rest):
            return Cluster, tuple(rest)
        case ("defaults", *rest) | ("apps", _, *rest):
            return App, tuple(rest)
    return None


def _syntax_problem(text: str, file: Path, error: tomli.TOMLDecodeError) -> Problem:
    shown = star_urls(mask_assignments(text, secret_names(Server, Cluster, App)))
    fault = explain_syntax(text, shown, error.pos)
    return Problem(place=_place(file, Lines(shown), fault.span), message=fault.message)


def _place(file: Path, lines: Lines, span: Span) -> Place:
    line, column = lines.locate(span.start)
    source = lines.line(line)
    width = max(1, min(span.end - span.start, len(source) - column + 1))
    return Place(file=file, line=line, column=column, width=width, source=source)


def _mask(text: str, entries: Mapping[KeyPath, Entry]) -> str:
    """Replace each character of secret values, also of those in URLs, by `*`, so that columns stay the same."""
    for span in _secret_spans(text, entries):
        masked = "".join(character if character == "\n" else "*" for character in text[span.start : span.end])
        text = text[: span.start] + masked + text[span.end :]
    for path, entry in entries.items():
        found, span = model_at(path), entry.value
        if found is not None and is_url(*found):
            text = text[: span.start] + star_url(text[span.start : span.end]) + text[span.end :]
    return star_urls(text)


def _secret_spans(text: str, entries: Mapping[KeyPath, Entry]) -> Iterator[Span]:
    for path, entry in entries.items():
        found = model_at(path)
        start = entry.value.start
        is_table = text[start] == "{" or not text[max(0, start - 80) : start].rstrip().endswith("=")
        if found is not None and (is_secret(*found) or may_be_secret(*found, is_table=is_table)):
            yield entry.value
