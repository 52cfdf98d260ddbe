"""Secret keys and secret variables of `env`, which are masked wherever configuration is shown.

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

from scalesocket.config.keys import keys_of, table_of

MASK: Final = "***"
FILE_SUFFIX: Final = "_file"
_SECRET_NAME: Final = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY|AUTH|CRED|SIGNATURE|PRIVATE|COOKIE|DSN", re.IGNORECASE)
_CREDENTIALS: Final = frozenset({"auth", "admin"})
"""Tables of credentials: a misspelt key in them may have a secret as its value."""
_PASSWORD: Final = re.compile(r"(://[^/?#\s@:]*:)[^/?#\s@]+@")


def is_secret(model: type[BaseModel], path: tuple[str | int, ...]) -> bool:
    """Whether `path`, relative to a table of `model`, leads to a secret key or into its value."""
    table: type[BaseModel] | None = model
    for part in path:
        if table is None or not isinstance(part, str) or part not in keys_of(table):
            return False
        if keys_of(table)[part].is_secret:
            return True
        table = table_of(table, part)
    return False


def may_be_secret(model: type[BaseModel], path: tuple[str | int, ...], *, is_table: bool) -> bool:
    """Whether a value may be a secret in a wrong place: that of an unknown key in `auth` or `admin`, or instead of a table there.

    `is_table`: whether the value is a table, whose own keys are judged.
    """
    table: type[BaseModel] | None = model
    for at, part in enumerate(path):
        if table is None or not isinstance(part, str):
            return False
        if part not in keys_of(table):
            return not _CREDENTIALS.isdisjoint(path[:at]) or _SECRET_NAME.search(part) is not None
        table = table_of(table, part)
    return table is not None and not is_table and not _CREDENTIALS.isdisjoint(path)


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


def mask_secrets(model: type[BaseModel], table: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a table of `model` with every secret in it replaced by `***`."""
    masked = dict(table)
    for name, key in keys_of(model).items():
        value = masked.get(name)
        inner = table_of(model, name)
        if key.is_secret and value is not None:
            masked[name] = MASK
        elif inner is not None and isinstance(value, Mapping):
            masked[name] = mask_secrets(inner, value)
    return masked


def mask_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment, and mask variables with names like those of secrets, and passwords in URLs."""
    return {name: MASK if _SECRET_NAME.search(name) else _PASSWORD.sub(rf"\1{MASK}@", value) for name, value in env.items()}


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
    """Replace the rest of the line after `name =`, for each of these names, by stars. For texts that are not valid TOML."""
    if not names:
        return text
    pattern = re.compile(rf"""(?<![\w-])((?:{"|".join(sorted(names))})["']?[ \t]*=)([^\n]*)""")
    return pattern.sub(lambda match: match[1] + "*" * len(match[2]), text)


def is_readable_by_others(path: Path) -> bool:
    """Whether the mode of a file lets every user of the machine read it. Raises OSError if there is no file."""
    return bool(path.stat().st_mode & stat.S_IROTH)


def _is_string(annotation: object) -> bool:
    return annotation in (str, str | None)
