"""Secret keys, and secret variables of `env`: masked wherever configuration is shown. Keys are readable from a file beside.

A key is secret when its declaration in the model says so. A secret that is a string may be given as `NAME_file`, the
path of a file that holds it; a secret that is a path (the key of `tls`) is such a file already. Either file brings a
warning when others may read it.
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
_PASSWORD: Final = re.compile(r"(://[^/?#\s@:]*:)[^/?#\s@]+@")


def is_secret(model: type[BaseModel], path: tuple[str | int, ...]) -> bool:
    """True if `path`, seen from a table of `model`, leads to a secret key or into its value."""
    table: type[BaseModel] | None = model
    for part in path:
        if table is None or not isinstance(part, str) or part not in keys_of(table):
            return False
        if keys_of(table)[part].is_secret:
            return True
        table = table_of(table, part)
    return False


def secret_file_keys(model: type[BaseModel]) -> Mapping[str, str]:
    """The keys that may be given as a file, by the name of their file_key: `{"token_file": "token"}`."""
    fields = model.model_fields
    return {
        name + FILE_SUFFIX: name for name, key in keys_of(model).items() if key.is_secret and _is_string(fields[name].annotation)
    }


def find_secret_files(
    model: type[BaseModel], table: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """All file_keys set in a table of `model` and the tables within: the path of the table, the secret's name, the file."""
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
    """Copy an environment, masking variables whose names speak of secrets, and passwords within URLs."""
    return {name: MASK if _SECRET_NAME.search(name) else _PASSWORD.sub(rf"\1{MASK}@", value) for name, value in env.items()}


def secret_names(*models: type[BaseModel]) -> frozenset[str]:
    """The names of all secret keys in these tables and the tables within."""
    names: set[str] = set()
    for model in models:
        for name, key in keys_of(model).items():
            if key.is_secret:
                names.add(name)
            elif inner := table_of(model, name):
                names |= secret_names(inner)
    return frozenset(names)


def star_assignments(text: str, names: frozenset[str]) -> str:
    """Star out what stands after `name =` for each of these names, on its line, in a text that no parser understands."""
    if not names:
        return text
    pattern = re.compile(rf"""(?<![\w-])((?:{"|".join(sorted(names))})["']?[ \t]*=)([^\n]*)""")
    return pattern.sub(lambda match: match[1] + "*" * len(match[2]), text)


def is_readable_by_others(path: Path) -> bool:
    """True if the mode of a file lets anyone on this machine read it. Raises OSError if it is not there."""
    return bool(path.stat().st_mode & stat.S_IROTH)


def _is_string(annotation: object) -> bool:
    return annotation in (str, str | None)
