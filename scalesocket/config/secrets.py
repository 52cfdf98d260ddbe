"""Secret keys, secret variables of `env`, and secrets in URLs, which are masked wherever configuration is shown.

The declaration of a key says whether it is secret. A secret that is a string may be given as `NAME_file`, the path of a file
with its value; a secret that is a path, as the key of `tls`, is such a file already. Both cause a warning if others can read
the file.
"""

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from scalesocket.config.keys import Key, keys_of, table_of

MASK: Final = "***"
FILE_SUFFIX: Final = "_file"
_SECRET_WORDS: Final = "PASS|PWD|SECRET|TOKEN|KEY|AUTH|CRED|SIGNATURE|PRIVATE|COOKIE|DSN"
_SECRET_NAME: Final = re.compile(_SECRET_WORDS, re.IGNORECASE)
_VARIABLE: Final = rf"[A-Z0-9_]*(?:{_SECRET_WORDS})[A-Z0-9_]*"
_CREDENTIALS: Final = frozenset({"auth", "admin"})
"""Tables of credentials: a misspelt key in them may have a secret as its value. So may one in a table with a secret key."""
_VALUE: Final = r"""[ \t]*(?:\"{3}[\s\S]*?(?:\"{3}|\Z)|'{3}[\s\S]*?(?:'{3}|\Z)|\[[^\]]*)?[^\n]*"""
"""A value and the rest of its last line, in a text that need not be valid TOML: one line, or a long string or an array."""
_VARIABLES: Final = "env"
_PASSWORD: Final = re.compile(r"(://(?:[^/?#\s@:]*:)?)[^/?#\s]+@")
_QUERY: Final = re.compile(r"(://[^?#\s]*[?#])\S+")
_WRITTEN_USER: Final = re.compile(r"""(://)([^/?#\s"']+@)""")
_WRITTEN_QUERY: Final = re.compile(r"""(://[^?#\s"']*[?#])([^\s"']+)""")
_USER: Final = r"""(?:
    [^/?#@\[]*:(?:.*@|(?!\d*(?:[/?#,"']|\Z)).*)  # with a password, which may hold what should have been percent-encoded
    | [^/?#]*@
    | (?(before)(?!)|.*@)  # not a URL, but someone meant one
)"""
"""User and password of a URL. Text that may be part of a password is masked, even without a host after it."""
_URL: Final = re.compile(
    rf"(?P<before>[^?#@]*?://)? (?P<user>{_USER})? (?P<rest>[^?#]*) (?P<mark>[?\#]?) (?P<query>.*)", re.DOTALL | re.VERBOSE
)


def is_secret(model: type[BaseModel], path: tuple[str | int, ...]) -> bool:
    """Whether `path`, relative to a table of `model`, leads to a secret key or into its value, or to a secret variable."""
    if path[:1] == (_VARIABLES,) and _VARIABLES in keys_of(model):
        return len(path) > 1 and _SECRET_NAME.search(str(path[1])) is not None
    return any(key.is_secret for key in _keys_on(model, path))


def is_url(model: type[BaseModel], path: tuple[str | int, ...]) -> bool:
    """Whether `path` leads to the key of a URL, which may have a secret in it."""
    return any(key.is_url for key in _keys_on(model, path))


def _keys_on(model: type[BaseModel], path: tuple[str | int, ...]) -> Iterator[Key]:
    """Find the keys on a path, as far as they are declared."""
    table: type[BaseModel] | None = model
    for part in path:
        if table is None or not isinstance(part, str) or part not in keys_of(table):
            return
        yield keys_of(table)[part]
        table = table_of(table, part)


def may_be_secret(model: type[BaseModel], path: tuple[str | int, ...], *, is_table: bool) -> bool:
    """Whether a value may be a secret in a wrong place: that of an unknown key in a table of credentials, or instead of one.

    `is_table`: whether the value is a table, whose own keys are judged.
    """
    table: type[BaseModel] | None = model
    for at, part in enumerate(path):
        if table is None or not isinstance(part, str):
            return False
        if part not in keys_of(table):
            return _has_credentials(table, path[:at]) or _SECRET_NAME.search(part) is not None
        table = table_of(table, part)
    return table is not None and not is_table and _has_credentials(table, path)


def _has_credentials(table: type[BaseModel], path: tuple[str | int, ...]) -> bool:
    return not _CREDENTIALS.isdisjoint(path) or bool(secret_file_keys(table))


def secret_file_keys(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the secrets that may be given as a file, by the key of the file: `{"token_file": "token"}`."""
    fields = model.model_fields
    return {
        name + FILE_SUFFIX: name for name, key in keys_of(model).items() if key.is_secret and _is_string(fields[name].annotation)
    }


def find_secret_files(
    model: type[BaseModel], table: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Find the secret files in a table of `model` and its inner tables: path of the table, name of the secret, file."""
    for file_key, name in secret_file_keys(model).items():
        if file_key in table:
            yield path, name, table[file_key]
    for key, value in table.items():
        inner = table_of(model, key)
        if inner is not None and isinstance(value, Mapping):
            yield from find_secret_files(inner, value, (*path, key))


def find_secret_texts(model: type[BaseModel], table: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Find the secrets that a table of `model` and its inner tables contain themselves: neither in a file nor in a variable."""
    texts = frozenset(secret_file_keys(model).values())
    for key, value in table.items():
        inner = table_of(model, key)
        if key in texts and isinstance(value, str) and "${" not in value:
            yield (*path, key)
        elif inner is not None and isinstance(value, Mapping):
            yield from find_secret_texts(inner, value, (*path, key))


def mask_secrets(model: type[BaseModel], table: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a table of `model` with every secret in it replaced by `***`, also those in URLs."""
    masked = dict(table)
    for name, key in keys_of(model).items():
        value = masked.get(name)
        inner = table_of(model, name)
        if key.is_secret and value is not None:
            masked[name] = MASK
        elif key.is_url and isinstance(value, str):
            masked[name] = mask_url(value)
        elif inner is not None and isinstance(value, Mapping):
            masked[name] = mask_secrets(inner, value)
    return masked


def mask_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment, and mask variables with names like those of secrets, and passwords and queries in URLs."""
    return {name: MASK if _SECRET_NAME.search(name) else mask_urls(value) for name, value in env.items()}


def mask_url(url: str) -> str:
    """Mask user, password, and query of a URL: `https://***@app.example/ws-auth?***`."""
    part = _split_url(url)
    user, query = MASK + "@" if part["user"] else "", MASK if part["query"] else ""
    return f"{part['before'] or ''}{user}{part['rest']}{part['mark']}{query}"


def mask_urls(text: str) -> str:
    """Mask passwords and queries of the URLs in a text."""
    return _QUERY.sub(rf"\1{MASK}", _PASSWORD.sub(rf"\1{MASK}@", text))


def star_url(text: str) -> str:
    """Replace each character of the user, password and query of a URL, as it is written in a file, by `*`."""
    if "\\" in text:  # an escape may stand for any character
        return _stars(text)
    part = _split_url(text)
    return f"{part['before'] or ''}{_stars(part['user'] or '')}{part['rest']}{part['mark']}{_stars(part['query'])}"


def star_urls(text: str) -> str:
    """Replace each character of the users, passwords and queries of the URLs in a text by `*`."""
    text = _WRITTEN_USER.sub(lambda match: match[1] + _stars(match[2]), text)
    return _WRITTEN_QUERY.sub(lambda match: match[1] + _stars(match[2]), text)


def _stars(text: str) -> str:
    return "".join(character if character in "\n\"'" else "*" for character in text)


def _split_url(url: str) -> re.Match[str]:
    found = _URL.fullmatch(url)
    assert found is not None  # each part may be empty
    return found


def secret_names(*models: type[BaseModel]) -> frozenset[str]:
    """Return the names of all secret keys in these tables and their inner tables."""
    names: set[str] = set()
    for model in models:
        for name, key in keys_of(model).items():
            if key.is_secret:
                names.add(name)
            elif inner := table_of(model, name):
                names |= secret_names(inner)
    return frozenset(names)


def mask_assignments(text: str, names: frozenset[str]) -> str:
    """Replace the value after `name =` by stars: for these names, and for those of secret variables in capitals.

    For texts that are not valid TOML. The rest of the value's last line is replaced as well.
    """
    pattern = re.compile(rf"""(?<![\w-])((?:{"|".join([*sorted(names), _VARIABLE])})["']?[ \t]*=)({_VALUE})""")
    return pattern.sub(lambda match: match[1] + re.sub(r"[^\n]", "*", match[2]), text)


def is_readable_by_others(path: Path) -> bool:
    """Whether the mode of a file lets every user of the machine read it. Raises OSError if there is no file."""
    return bool(path.stat().st_mode & stat.S_IROTH)


def _is_string(annotation: object) -> bool:
    return annotation in (str, str | None)
