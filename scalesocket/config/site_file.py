"""A file of the site while it is parsed: its tables with variables replaced, and the problems found in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalesocket.config.interpolate import interpolate
from scalesocket.config.positions import KeyPath
from scalesocket.config.problems import Place, Problem, Severity, key_text
from scalesocket.config.secrets import MASK, is_secret
from scalesocket.config.toml_document import TomlDocument, model_at
from scalesocket.config.validation_errors import type_name
from scalesocket.config.values import FileText


@dataclass(slots=True)
class SiteFile:
    """The site file or an included one."""

    document: TomlDocument
    environ: Mapping[str, str]
    problems: list[Problem]
    """Shared by all files of a site."""
    tables: dict[str, Any] = field(init=False)
    """The tables of the document, with variables replaced. Every string is a `FileText`."""
    rejected: set[KeyPath] = field(init=False, default_factory=set)
    """Values whose variables could not be replaced. Other problems of these values are not reported."""

    def __post_init__(self) -> None:
        self.tables = self._interpolated(self.document.tables, ())

    @property
    def file(self) -> Path:
        """The path as the caller or `include` wrote it."""
        return self.document.file

    def table(self, *path: str) -> dict[str, Any] | None:
        """Return the table at `path`; None if there is none. Reports a value that is not a table."""
        value: Any = self.tables
        for part in path:
            value = value.get(part)
            if value is None:
                return None
        if isinstance(value, dict):
            return value
        hint = " (write [apps.NAME], in single brackets)" if path == ("apps",) and isinstance(value, list) else ""
        self.report(path, f"must be a table, not {type_name(value)}{hint}")
        return None

    def report(self, path: KeyPath, message: str, *, at_key: bool = False) -> None:
        """Report an error at the value of `path`, or at its key. Names `path` as far as it is written in the file."""
        path = path if at_key else self.document.written(path)
        place = self.document.key_place(path) if at_key else self.document.value_place(path)
        self.report_at(place, path, message)

    def report_at(self, place: Place, path: KeyPath, message: str, *, severity: Severity = Severity.ERROR) -> None:
        """Report a problem at a given place, unless its value is in `rejected`."""
        if self._is_rejected(path) or (severity is Severity.WARNING and self._contains_rejected(path)):
            return
        message = self._without_secret(path, message)
        self.problems.append(Problem(severity=severity, place=place, key=key_text(path), message=message))

    def _is_rejected(self, path: KeyPath) -> bool:
        return any(path[:end] in self.rejected for end in range(1, len(path) + 1))

    def _contains_rejected(self, path: KeyPath) -> bool:
        return any(rejected[: len(path)] == path for rejected in self.rejected)

    def _interpolated(self, value: Any, path: KeyPath) -> Any:
        if isinstance(value, Mapping):
            return {key: self._interpolated(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._interpolated(inner, (*path, index)) for index, inner in enumerate(value)]
        if not isinstance(value, str):
            return value
        try:
            text = interpolate(value, self.environ)
        except ValueError as error:
            self.report(path, str(error))
            self.rejected.add(path)
            text = value
        return FileText(text, self.document.folder, is_interpolated=text != value)

    def _without_secret(self, path: KeyPath, message: str) -> str:
        found = model_at(path)
        if found is None or not is_secret(*found):
            return message
        value: Any = self.document.tables
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        return message.replace(str(value), MASK) if value else message
