"""A document ready to be understood: its strings interpolated, and a place to report what is wrong with it."""

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
    """One document, what it says, and the problems found in it so far."""

    document: TomlDocument
    environ: Mapping[str, str]
    problems: list[Problem]
    """Shared by all sources of a site."""
    tables: dict[str, Any] = field(init=False)
    """The document's tables, every string in them a `FileText`."""
    broken: set[KeyPath] = field(init=False, default_factory=set)
    """Values already reported, so that what follows from them is not."""

    def __post_init__(self) -> None:
        self.tables = self._interpolated(self.document.tables, ())

    @property
    def file(self) -> Path:
        """The file as it was named to us."""
        return self.document.file

    def table(self, *path: str) -> dict[str, Any] | None:
        """The table at `path`; None if there is none, and if what is there is not a table, which is reported."""
        value: Any = self.tables
        for part in path:
            value = value.get(part)
            if value is None:
                return None
        if isinstance(value, dict):
            return value
        self.report(path, f"must be a table, not {type_name(value)}")
        return None

    def report(self, path: KeyPath, message: str, *, at_key: bool = False) -> None:
        """Add an error about the key at `path`, or about its value; then the key is named as far as the file has it."""
        path = path if at_key else self.document.written(path)
        place = self.document.key_place(path) if at_key else self.document.value_place(path)
        self.report_at(place, path, message)

    def report_at(self, place: Place, path: KeyPath, message: str, *, severity: Severity = Severity.ERROR) -> None:
        """Add a problem at a place that was found otherwise; not a second one about a broken value."""
        if self._is_broken(path) or (severity is Severity.WARNING and self._holds_broken(path)):
            return
        message = self._without_secret(path, message)
        self.problems.append(Problem(severity=severity, place=place, key=key_text(path), message=message))

    def _is_broken(self, path: KeyPath) -> bool:
        return any(path[:end] in self.broken for end in range(1, len(path) + 1))

    def _holds_broken(self, path: KeyPath) -> bool:
        return any(broken[: len(path)] == path for broken in self.broken)

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
            self.broken.add(path)
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
