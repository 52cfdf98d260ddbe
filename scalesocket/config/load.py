"""Reading a site file, the files it includes and those of its secrets from disk."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from scalesocket.config.machine import check_machine
from scalesocket.config.model import Site
from scalesocket.config.parse import Origins, include_patterns, parse_documents
from scalesocket.config.problems import ConfigError, Place, Problem, Severity, raise_errors, sort_problems
from scalesocket.config.secrets import is_readable_by_others
from scalesocket.config.toml_document import TomlDocument, parse_document
from scalesocket.config.validation_errors import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A site as read from disk."""

    site: Site
    origins: Origins
    warnings: Sequence[Problem]
    files: frozenset[Path]
    """Absolute paths of all that was read: an edit to one of these may change the site."""
    folders: frozenset[Path]
    """Absolute paths of the folders where `include` looks: a new file in one of these may change the site."""


def load_site(path: Path, environ: Mapping[str, str] | None = None) -> Site:
    """Read a site file and what it includes. `environ`: the variables for `${NAME}`, by default those of this process.

    Raises ConfigError with all problems, also when a file cannot be read.
    """
    return load_site_with_origins(path, environ).site


def load_site_with_origins(path: Path, environ: Mapping[str, str] | None = None, *, is_machine_meant: bool = False) -> Loaded:
    """Read a site file as `load_site` does, and tell where each value came from and which files take part.

    `is_machine_meant`: if it is wrong, add to its problems what this machine lacks for the rest of it.
    """
    environ = os.environ if environ is None else environ
    loaded, usable, problems = _read(path, environ)
    if is_machine_meant and any(problem.severity is Severity.ERROR for problem in problems):
        problems = _with_lacks(path, usable, loaded.origins, problems, environ)
    raise_errors(problems)
    return loaded


def find_problems(path: Path, environ: Mapping[str, str] | None = None, *, is_machine_meant: bool = True) -> Sequence[Problem]:
    """All that is wrong with a site file, warnings among it; also what this machine lacks for what is valid, if asked."""
    environ = os.environ if environ is None else environ
    try:
        loaded, usable, problems = _read(path, environ)
    except ConfigError as error:
        return error.problems
    return _with_lacks(path, usable, loaded.origins, problems, environ) if is_machine_meant else problems


def _with_lacks(
    path: Path, usable: Site, origins: Origins, problems: Sequence[Problem], environ: Mapping[str, str]
) -> Sequence[Problem]:
    """The problems of a file and what this machine lacks, in the order of the files; of a key that is wrong only that."""
    wrong = {problem.key for problem in problems if problem.severity is Severity.ERROR}
    lacks = [problem for problem in check_machine(usable, origins, environ) if problem.key not in wrong]
    files = [path, *(problem.place.file for problem in (*problems, *lacks) if problem.place.file is not None)]
    return sort_problems([*problems, *lacks], list(dict.fromkeys(files)))


def _read(path: Path, environ: Mapping[str, str]) -> tuple[Loaded, Site, Sequence[Problem]]:
    """What of a site is valid, with and without the apps that have errors, and all problems.

    Raises ConfigError if nothing is known but that.
    """
    reader = Reader()
    main = reader.document(path)
    if main is None:
        raise ConfigError(reader.problems)
    folders: set[Path] = set()
    included = []
    for pattern, place in include_patterns(main, environ):
        matches = _find(pattern, main)
        folders.add((main.folder / pattern).parent)
        if not matches and not has_magic(pattern):
            reader.problems.append(Problem(place=place, key="include", message=f"there is no file {pattern!r}"))
        elif not matches and not (folder := main.folder / _fixed_folder(Path(pattern))).is_dir():
            # None in a folder is as it may be; but whoever moves the folder does not want every app of it gone.
            reader.problems.append(Problem(place=place, key="include", message=f"there is no folder {str(folder)!r}"))
        included += [_as_named(match, main, path) for match in matches]
    included = list(dict.fromkeys(included))
    documents = [document for file in included if (document := reader.document(file)) is not None]
    parsed = parse_documents(main, documents, environ, read_secret=reader.secret, is_whole=not reader.problems)
    problems = sort_problems([*reader.problems, *parsed.problems], [path, *included])
    loaded = Loaded(
        site=parsed.site,
        origins=parsed.origins,
        warnings=[problem for problem in problems if problem.severity is Severity.WARNING],
        files=frozenset(reader.files),
        folders=frozenset(folders),
    )
    return loaded, parsed.usable, problems


class Reader:
    """Reads files, and keeps what went wrong and which they were."""

    def __init__(self) -> None:
        self.files: set[Path] = set()
        self.problems: list[Problem] = []

    def document(self, file: Path) -> TomlDocument | None:
        """The document in a file, or None with its problem noted."""
        self.files.add(file.absolute())
        try:
            return parse_document(file.read_bytes().decode(), file)
        except OSError as error:
            hint = _meant_file(file) if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) else ""
            message = f"cannot be read: {(error.strerror or str(error)).lower()}{hint}"
            self.problems.append(Problem(place=Place(file=file), message=message))
        except UnicodeDecodeError as error:
            self.problems.append(_not_utf8(file, error))
        except ConfigError as error:
            self.problems += error.problems
        return None

    def secret(self, file: Path) -> str:
        """The text of a secret's file."""
        self.files.add(file)
        text = file.read_bytes().decode()
        if is_readable_by_others(file):
            message = "holds a secret and can be read by others (chmod o-r)"
            self.problems.append(Problem(severity=Severity.WARNING, place=Place(file=file), message=message))
        return text


def _meant_file(file: Path) -> str:
    """A hint at the site file that was probably meant: one in the same folder, or in the folder that was named."""
    folder = file if file.is_dir() else file.parent
    others = sorted(other.name for other in folder.glob("*.toml") if other.is_file())
    if len(others) == 1 or "site.toml" in others:
        near: str | None = nearest(file.name, others) or ("site.toml" if "site.toml" in others else others[0])
    else:
        near = nearest(file.name, others)
    return f" (did you mean {folder / near}?)" if near else " (scalesocket init writes a site file to begin with)"


def _find(pattern: str, main: TomlDocument) -> list[Path]:
    # In the folder, not as a part of the pattern: its own name may have brackets. A pattern may be absolute.
    found = (main.folder / name for name in sorted(glob(pattern, root_dir=main.folder)))  # noqa: PTH207
    return [file for file in found if file.is_file() and file != main.folder / main.file.name]


def _fixed_folder(pattern: Path) -> Path:
    """The folder below which a pattern is looked for: its parts before the first with a wildcard."""
    folder = pattern
    while has_magic(str(folder)):
        folder = folder.parent
    return folder


def _as_named(file: Path, main: TomlDocument, path: Path) -> Path:
    """Name an included file as the site file was named: relative if that was."""
    return path.parent / file.relative_to(main.folder) if file.is_relative_to(main.folder) else file


def _not_utf8(file: Path, error: UnicodeDecodeError) -> Problem:
    before = error.object[: error.start].decode()
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    place = Place(file=file, line=line, column=column)
    if error.object.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Problem(place=place, message="not valid TOML: the file is in UTF-16 (save it as UTF-8)")
    message = f"not valid TOML: byte 0x{error.object[error.start]:02x} is not UTF-8 (save the file as UTF-8)"
    return Problem(place=place, message=message)
