"""Types of values in the site file: how each is read, checked, written back and described in the schema.

Network addresses are in `addresses.py`, HTTP fields in `headers.py`, host names in `host_patterns.py`, durations and sizes in
`units.py`.
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from signal import Signals
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, Strict, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

RESERVED_APPS: Final = frozenset({"admin", "api", "health", "metrics", "ready", "static"})
"""First segments of the server's own URLs, which no app may have as its name."""

MAX_WORKERS: Final = 256
"""Worker processes of a server; more is a mistake."""
APP_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
ENV_NAME: Final = re.compile(r"[^=\x00]+")

FROM_FILE: Final[dict[str, object]] = {"is_from_file": True}
"""The validation context for values from a site file: durations and sizes then need a unit."""


class FileText(str):
    """A string from a site file, with the folder of the file, and whether variables were replaced in it."""

    __slots__ = ("folder", "is_interpolated")

    folder: Path
    is_interpolated: bool

    def __new__(cls, text: str, folder: Path, *, is_interpolated: bool = False) -> "FileText":
        """Mark `text` as read from a file in `folder`, an absolute path."""
        marked = super().__new__(cls, text)
        marked.folder = folder
        marked.is_interpolated = is_interpolated
        return marked


def parse_signal(name: str) -> int:
    """Read the name of a signal, with or without `SIG`; raises ValueError with a hint."""
    try:
        return Signals[name if name.startswith("SIG") else f"SIG{name}"].value
    except KeyError:
        raise ValueError(f'unknown signal {name!r} (write for example "SIGTERM", "SIGINT" or "SIGKILL")') from None


def format_signal(number: int) -> str:
    """`SIGTERM` for 15."""
    return Signals(number).name


def parse_name(name: str) -> str:
    """Check the name of an app; raises ValueError with a hint."""
    if name in RESERVED_APPS:
        raise ValueError(f"{name!r} is a reserved name (choose another; reserved: {', '.join(sorted(RESERVED_APPS))})")
    if not APP_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not an app name (use lower-case letters, digits, '-' and '_', first a letter or digit)")
    return name


def parse_pattern(pattern: str) -> str:
    """Check a regular expression; raises ValueError with what is wrong and where."""
    try:
        re.compile(pattern)
    except re.error as error:
        at = "" if error.pos is None else f" at character {error.pos + 1}"
        raise ValueError(f"not a regular expression: {error.msg}{at}") from None
    except (OverflowError, RecursionError):
        raise ValueError("not a regular expression: too many repetitions or groups") from None
    return pattern


def read_string(parse: Callable[[str], object]) -> BeforeValidator:
    """Read a string with `parse`. A site file has to give a string; Python may give the parsed value."""

    def read(value: object, info: ValidationInfo) -> object:
        if isinstance(value, str):
            return parse(value)
        if info.context is not None:
            raise PydanticCustomError("string_type", "must be a string")
        return value

    return BeforeValidator(read)


def _read_flag(value: object) -> object:
    if isinstance(value, FileText) and value.is_interpolated:
        return {"true": True, "false": False}.get(value, value)
    return value


def _check_exposure(value: object) -> object:
    if isinstance(value, bool) or value == "admin":
        return value
    raise ValueError(f'unknown value {value!r} (one of: true, false, "admin")')


def _check_workers(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_WORKERS):
        return value
    raise ValueError(f'must be a whole number from 1 to {MAX_WORKERS}, or "auto", not {value!r}')


def _read_number(kind: type[int] | type[float]) -> BeforeValidator:
    def read(value: object) -> object:
        if isinstance(value, FileText) and value.is_interpolated:
            try:
                return kind(value)
            except ValueError:
                return value
        return value

    return BeforeValidator(read)


def _read_command(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(
            f"cannot split {str(value)!r} into words: {str(error).lower()} (write a list, one string per word)"
        ) from None


def _check_command(argv: tuple[str, ...]) -> tuple[str, ...]:
    if not argv or not argv[0]:
        raise ValueError('has no program (write for example ["cat"])')
    if any("\0" in word for word in argv):
        raise ValueError("an argument contains a NUL character (delete it)")
    return argv


def _check_env(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not ENV_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a variable (it cannot be empty or contain '=' or NUL)")
        if "\0" in value:
            raise ValueError(f"the value of {name} contains a NUL character (delete it)")
    return env


def read_list(value: object) -> object:
    """Read a single string as a list of one."""
    return [value] if isinstance(value, str) else value


def read_path(value: object) -> object:
    """Resolve a relative path: from a site file against its folder, from Python against the working directory."""
    if isinstance(value, FileText):
        return value.folder / value
    return Path.cwd() / value if isinstance(value, str | Path) else value


def _read_control(value: object) -> object:
    if not isinstance(value, str) or value in ("auto", "off"):
        return value
    return str(read_path(value))


def _check_delimiter(characters: str) -> str:
    if not characters:
        raise ValueError("is empty (set binary = true for output that is not split)")
    return characters


def string_form(form: str) -> WithJsonSchema:
    """Describe a value that is a string in the file; `form` says in a few words what it contains."""
    return WithJsonSchema({"type": "string", "x-form": form})


def one_or_more(form: str) -> WithJsonSchema:
    """Describe a value that is a list in the file, or one string for a list of one."""
    return WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "x-form": form})


def one_or_more_of(*words: str) -> WithJsonSchema:
    """Describe a value that is a list of some of these words, or one of them for a list of one."""
    one = {"enum": list(words)}
    form = f"list of {', '.join(f'`{chr(34)}{word}{chr(34)}`' for word in words)}"
    return WithJsonSchema({"anyOf": [one, {"type": "array", "items": one}], "x-form": form})


def as_text() -> PlainSerializer:
    """Write a value back with `str`."""
    return PlainSerializer(str, when_used="json")


Flag = Annotated[bool, BeforeValidator(_read_flag), Strict()]
Exposure = Annotated[
    bool | Literal["admin"],
    BeforeValidator(_check_exposure),
    BeforeValidator(_read_flag),
    WithJsonSchema({"anyOf": [{"enum": ["admin"]}, {"type": "boolean"}], "x-form": 'boolean or `"admin"`'}),
]
"""Whether something is served: to everybody, to nobody, or on the admin listener alone."""
Count = Annotated[int, _read_number(int), Strict(), Field(ge=1), WithJsonSchema({"type": "integer", "minimum": 1})]
"""A whole number from 1."""
Workers = Annotated[
    int | Literal["auto"],
    BeforeValidator(_check_workers),
    _read_number(int),
    WithJsonSchema(
        {
            "anyOf": [{"enum": ["auto"]}, {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS}],
            "x-form": 'whole number or `"auto"`',
        }
    ),
]
"""A number of processes."""
Amount = Annotated[
    float,
    _read_number(float),
    Field(gt=0, allow_inf_nan=False, strict=True),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0}),
]
"""A number above 0."""
AbsolutePath = Annotated[Path, BeforeValidator(read_path), as_text(), string_form("path")]
"""A path, resolved when it is read."""
AppName = Annotated[str, AfterValidator(parse_name)]
Argv = Annotated[tuple[str, ...], BeforeValidator(_read_command), AfterValidator(_check_command), one_or_more("list or string")]
Env = Annotated[dict[str, str], AfterValidator(_check_env)]
Names = Annotated[tuple[str, ...], BeforeValidator(read_list), one_or_more("string or list")]
ClientKeys = Annotated[
    tuple[Literal["_to", "_except", "_close", "_meta", "_cache"], ...],
    BeforeValidator(read_list),
    one_or_more_of("_to", "_except", "_close", "_meta", "_cache"),
]
Control = Annotated[str, BeforeValidator(_read_control), string_form("path or word")]
Delimiter = Annotated[str, AfterValidator(_check_delimiter), string_form("characters")]
Pattern = Annotated[str, AfterValidator(parse_pattern), string_form("regular expression")]
Signal = Annotated[int, read_string(parse_signal), PlainSerializer(format_signal, when_used="json"), string_form("signal name")]
