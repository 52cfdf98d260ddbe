"""Loading: reads a site file, its included files and its secret files from disk, and parses them."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from scalesocket.config.machine import check_machine
from scalesocket.config.model import Site
from scalesocket.config.parse import Origins, include_patterns, parse_documents
from scalesocket.config.problems import ConfigError, Place, Problem, Severity, raise_errors, sort_problems
from scalesocket.config.secret_files import find_exposed_texts
from scalesocket.config.secrets import is_readable_by_others
from scalesocket.config.toml_document import TomlDocument, parse_document
from scalesocket.config.validation_errors import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A site that was read from disk."""

    site: Site
    origins: Origins
    warnings: Sequence[Problem]
    files: frozenset[Path]
    """Absolute paths of all files that were read, to be watched."""
    folders: frozenset[Path]
    """Absolute paths of the folders in which `include` looks for files, to be watched."""


def load_site(path: Path, environ: Mapping[str, str] | None = None) -> Site:
    """Load a site file and its included files. `environ` has the variables for `${NAME}`, by default those of this process.

    Raises ConfigError with all problems, files that cannot be read among them.
    """
    return load_site_with_origins(path, environ).site


def load_site_with_origins(path: Path, environ: Mapping[str, str] | None = None, *, with_machine: bool = False) -> Loaded:
    """Load a site file as `load_site` does, with the places of its values, the warnings, and the files to watch.

    `with_machine`: if there are errors, add what this machine lacks for the valid rest of the site.
    """
    environ = os.environ if environ is None else environ
    loaded, usable, problems = _read(path, environ)
    if with_machine and any(problem.severity is Severity.ERROR for problem in problems):
        problems = _with_machine_problems(path, usable, loaded.origins, problems, environ)
    raise_errors(problems)
    return loaded


def find_problems(path: Path, environ: Mapping[str, str] | None = None, *, with_machine: bool = True) -> Sequence[Problem]:
    """Find all errors and warnings of a site file; `with_machine`, also what this machine lacks for its valid part."""
    environ = os.environ if environ is None else environ
    try:
        loaded, usable, problems = _read(path, environ)
    except ConfigError as error:
        return error.problems
    return _with_machine_problems(path, usable, loaded.origins, problems, environ) if with_machine else problems


def _with_machine_problems(
    path: Path, usable: Site, origins: Origins, problems: Sequence[Problem], environ: Mapping[str, str]
) -> Sequence[Problem]:
    """Add what this machine lacks to the problems of a site, in the order of the files; not for keys that have errors."""
    wrong = {problem.key for problem in problems if problem.severity is Severity.ERROR}
    found = [*problems, *(problem for problem in check_machine(usable, origins, environ) if problem.key not in wrong)]
    files = [path, *(problem.place.file for problem in found if problem.place.file is not None)]
    return sort_problems(found, list(dict.fromkeys(files)))


def _read(path: Path, environ: Mapping[str, str]) -> tuple[Loaded, Site, Sequence[Problem]]:
    """Read and parse a site: its valid part, the same with the valid keys of apps that have errors, and all problems.

    Raises ConfigError if the site file itself cannot be read or is not TOML.
    """
    reader = Reader()
    main = reader.document(path)
    if main is None:
        raise ConfigError(reader.problems)
    patterns = include_patterns(main, environ)
    included = list(dict.fromkeys(_as_named(file, main, path) for file in reader.find_included(main, patterns)))
    documents = [document for file in included if (document := reader.document(file)) is not None]
    parsed = parse_documents(main, documents, environ, read_secret=reader.secret, is_whole=not reader.has_errors)
    problems = sort_problems([*reader.problems, *parsed.problems], [path, *included])
    loaded = Loaded(
        site=parsed.site,
        origins=parsed.origins,
        warnings=[problem for problem in problems if problem.severity is Severity.WARNING],
        files=frozenset(reader.files),
        folders=frozenset((main.folder / pattern).parent for pattern, _ in patterns),
    )
    return loaded, parsed.usable, problems


class Reader:
    """Reads files, and collects their paths and problems."""

    def __init__(self) -> None:
        self.files: set[Path] = set()
        self.problems: list[Problem] = []

    @property
    def has_errors(self) -> bool:
        """Whether a file could not be read."""
        return any(problem.severity is Severity.ERROR for problem in self.problems)

    def document(self, file: Path) -> TomlDocument | None:
        """Read and parse a file; None if that fails, which is noted in `problems`."""
        self.files.add(file.absolute())
        try:
            document = parse_document(file.read_bytes().decode(), file)
            if is_readable_by_others(file):
                self.problems += find_exposed_texts(document)
            return document
        except OSError as error:
            hint = _suggest_file(file) if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) else ""
            message = f"cannot be read: {(error.strerror or str(error)).lower()}{hint}"
            self.problems.append(Problem(place=Place(file=file), message=message))
        except UnicodeDecodeError as error:
            self.problems.append(_not_utf8(file, error))
        except ConfigError as error:
            self.problems += error.problems
        return None

    def find_included(self, main: TomlDocument, patterns: Iterable[tuple[str, Place]]) -> Iterator[Path]:
        """Find the files that match the patterns of `include`. Notes patterns for files and folders that do not exist."""
        for pattern, place in patterns:
            matches = _find(pattern, main)
            yield from matches
            folder = main.folder / _fixed_folder(Path(pattern))
            if not matches and not has_magic(pattern):
                self._note(place, f"there is no file {pattern!r}")
            elif not matches and not folder.is_dir():
                # An empty folder is fine. A folder that does not exist was probably moved; to go on would remove all its apps.
                self._note(place, f"there is no folder {str(folder)!r} (create it, or delete the pattern)")

    def _note(self, place: Place, message: str) -> None:
        self.problems.append(Problem(place=place, key="include", message=message))

    def secret(self, file: Path) -> str:
        """Read a secret file."""
        self.files.add(file)
        text = file.read_bytes().decode()
        if is_readable_by_others(file):
            message = "contains a secret and can be read by others (chmod o-r)"
            self.problems.append(Problem(severity=Severity.WARNING, place=Place(file=file), message=message))
        return text


def _suggest_file(file: Path) -> str:
    """Suggest the site file that was probably meant: one of a similar name, or `site.toml` in the folder that was given."""
    folder = file if file.is_dir() else file.parent
    others = {other.stem: other.name for other in sorted(folder.glob("*.toml")) if other.is_file()}  # compared without .toml
    near = nearest(file.stem, others)
    if file.is_dir():
        near = "site" if "site" in others else None
    if near is not None:
        return f" (did you mean {folder / others[near]}?)"
    if "site" in others:
        return f" (there is {folder / others['site']})"
    return " (scalesocket init writes a site file)"


def _find(pattern: str, main: TomlDocument) -> list[Path]:
    # The folder is not a part of the pattern, because its name may contain brackets. A pattern may be absolute.
    found = (main.folder / name for name in sorted(glob(pattern, root_dir=main.folder)))  # noqa: PTH207
    return [file for file in found if file.is_file() and file != main.folder / main.file.name]


def _fixed_folder(pattern: Path) -> Path:
    """Return the part of a pattern before its first wildcard."""
    folder = pattern
    while has_magic(str(folder)):
        folder = folder.parent
    return folder


def _as_named(file: Path, main: TomlDocument, path: Path) -> Path:
    """Name an included file as the site file was named: relative if that is relative."""
    return path.parent / file.relative_to(main.folder) if file.is_relative_to(main.folder) else file


def _not_utf8(file: Path, error: UnicodeDecodeError) -> Problem:
    before = error.object[: error.start].decode()
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    place = Place(file=file, line=line, column=column)
    if error.object.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Problem(place=place, message="not valid TOML: the file is in UTF-16 (save it as UTF-8)")
    message = f"not valid TOML: byte 0x{error.object[error.start]:02x} is not UTF-8 (save the file as UTF-8)"
    return Problem(place=place, message=message)
