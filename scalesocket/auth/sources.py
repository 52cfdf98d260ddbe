"""The files that authentication reads: keys, tokens and users. Reading blocks, so at a reload it runs in a thread."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from scalesocket.auth.keys import parse_keys
from scalesocket.auth.tokens import parse_tokens
from scalesocket.auth.users import UserTable, parse_users
from scalesocket.config.model import App, MiB
from scalesocket.errors import ScalesocketError

MAX_FILE: Final = 16 * MiB
"""Bytes of a file."""


class AuthFileError(ScalesocketError):
    """A file that cannot be used: the key of the site file, the path, and why."""


class Source(NamedTuple):
    """A file, and how it is parsed."""

    key: str
    """Of the site file, relative to `auth`: `jwt.keys_file`, `tokens_file` or `users_file`."""
    file: Path
    algorithms: tuple[str, ...] | None = None
    """The only ones that keys are used for."""


Parsed = Mapping[Source, Any]
"""What the files contain: a KeySet, a TokenTable or a UserTable."""
Contents = Mapping[Source, bytes]
"""The bytes of the files, where another process has read them."""
NOTHING: Final[Mapping[str, Any]] = {"jwt.keys_file": (), "tokens_file": {}, "users_file": UserTable({})}
"""What a file without entries contains, by the key of its source."""


def sources_of(app: App) -> Iterator[Source]:
    """Return the files of an app's `auth`."""
    auth = app.auth
    if auth is None:
        return
    if auth.jwt is not None and auth.jwt.keys_file is not None:
        yield Source("jwt.keys_file", auth.jwt.keys_file, auth.jwt.algorithms)
    if auth.tokens_file is not None:
        yield Source("tokens_file", auth.tokens_file)
    if auth.users_file is not None:
        yield Source("users_file", auth.users_file)


def load_source(source: Source) -> Any:
    """Read and parse a file. Raises AuthFileError."""
    return parse_source(source, read_source(source))


def read_source(source: Source) -> bytes:
    """Read a file. Raises AuthFileError."""
    try:
        with source.file.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise AuthFileError(f"{source.file} is longer than {MAX_FILE} bytes")
    except OSError as error:
        raise AuthFileError(f"{source.file} cannot be read: {(error.strerror or str(error)).lower()}") from error
    return content


def parse_source(source: Source, content: bytes) -> Any:
    """Parse what a file contains. Raises AuthFileError."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise AuthFileError(f"{source.file} is not UTF-8") from None
    try:
        match source.key:
            case "tokens_file":
                return parse_tokens(text)
            case "users_file":
                return parse_users(text)
        return parse_keys(text, source.algorithms)
    except ScalesocketError as error:
        raise AuthFileError(f"{source.file}: {error}") from None
