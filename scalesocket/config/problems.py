"""Problems of a site file: errors and warnings, each with its place, as text for people and as records for editors."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, TypedDict

from scalesocket.config.positions import KeyPath
from scalesocket.errors import ScalesocketError


class Severity(StrEnum):
    """Whether a problem keeps a site from being served."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong in a table, before its place in a file is known."""

    path: KeyPath
    """From the table; empty for the table itself."""
    message: str
    severity: Severity = Severity.ERROR
    is_about_key: bool = False
    """The key is wrong, not its value."""


class ProblemRecord(TypedDict):
    """A problem as JSON. Lines and columns count from 1; they are null if the whole file is meant."""

    severity: str
    file: str | None
    line: int | None
    column: int | None
    end_column: int | None
    key: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in a file, with the text of its line, in which secrets are masked."""

    file: Path | None
    """The path as the caller or `include` wrote it."""
    line: int | None = None
    """From 1; None for the file as a whole."""
    column: int | None = None
    """From 1, in characters."""
    width: int = 1
    """Characters to underline, all on this line."""
    source: str = ""

    def __str__(self) -> str:
        """Return `file:line:column`, as far as known."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)


_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error or a warning."""

    severity: Severity = Severity.ERROR
    place: Place
    key: str = ""
    """The dotted key, such as `apps.chat.routing`; empty for syntax errors."""
    message: str

    def __str__(self) -> str:
        """Return one line: `file:line:column: apps.chat.routing: what (hint)`, with `warning` before the key of a warning."""
        warning = "warning" if self.severity is Severity.WARNING else ""
        return ": ".join(part for part in (str(self.place), warning, self.key, self.message) if part)

    def render(self) -> str:
        """Return the one line, and below it the line of the file with a marker."""
        if not self.place.source or self.place.column is None:
            return str(self)
        before = self.place.source[: self.place.column - 1]
        margin = "".join(character if character == "\t" else " " for character in before)
        source = "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in self.place.source)
        return f"{self}\n  {source}\n  {margin}{'^' * max(1, self.place.width)}"

    def to_record(self) -> ProblemRecord:
        """Return the problem for `--format json`."""
        place = self.place
        return {
            "severity": self.severity.value,
            "file": None if place.file is None else str(place.file),
            "line": place.line,
            "column": place.column,
            "end_column": None if place.column is None else place.column + max(1, place.width),
            "key": self.key,
            "message": self.message,
        }


class ConfigError(ScalesocketError):
    """The site file has errors. Carries all problems, warnings among them, in the order of the files."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def render(self) -> str:
        """Return all problems with their source lines, for a terminal or a log."""
        return render_problems(self.problems)


def raise_errors(problems: Sequence[Problem]) -> None:
    """Raise ConfigError with all these problems if one is an error."""
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise ConfigError(problems)


def render_problems(problems: Iterable[Problem]) -> str:
    """Return problems with their source lines, one after the other."""
    return "\n".join(problem.render() for problem in problems)


def sort_problems(problems: Iterable[Problem], files: Sequence[Path]) -> list[Problem]:
    """Sort problems by file and line, and remove duplicates."""
    rank = {file: number for number, file in enumerate(files)}

    def order(problem: Problem) -> tuple[int, int, int]:
        place = problem.place
        number = rank.get(place.file, len(rank)) if place.file is not None else -1
        return number, place.line or 0, place.column or 0

    return sorted(dict.fromkeys(problems), key=order)


def key_text(path: Iterable[str | int]) -> str:
    """Write a path as TOML does: `apps.chat.env."A B"`, `server.bind[1]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE.fullmatch(part) else quote(part)
            text += f".{name}" if text else name
    return text


def quote(text: str) -> str:
    """Write a TOML basic string: a JSON string with DEL escaped, as TOML demands."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
