"""Secrets in files of their own: `NAME_file` is the path of a file with the value of `NAME`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from scalesocket.config.model import App, Server
from scalesocket.config.positions import KeyPath
from scalesocket.config.secrets import FILE_SUFFIX, find_secret_files
from scalesocket.config.site_file import SiteFile
from scalesocket.config.validation_errors import type_name
from scalesocket.config.values import FileText

SecretReader = Callable[[Path], str]
"""Reads the file of a secret; raises OSError or UnicodeDecodeError."""


def read_secret_files(site_file: SiteFile, read: SecretReader) -> None:
    """Read the secret files of every section of a site file."""
    read_table_secrets(site_file, ("server",), Server, read)
    read_table_secrets(site_file, ("defaults",), App, read)
    apps = site_file.tables.get("apps")
    for name in apps if isinstance(apps, dict) else ():
        read_table_secrets(site_file, ("apps", name), App, read)


def read_table_secrets(site_file: SiteFile, section: KeyPath, model: type[BaseModel], read: SecretReader) -> None:
    """Replace each `NAME_file` of a secret, in a table of `model`, by `NAME` with the content of the file.

    One newline at the end of the file is removed. Reports a file that cannot be read, and a secret that is set both ways.
    """
    table = _table_at(site_file.tables, section)
    if not isinstance(table, dict):
        return
    for inner, name, file in list(find_secret_files(model, table)):
        holder = _table_at(table, inner)
        del holder[name + FILE_SUFFIX]
        path = (*section, *inner, name + FILE_SUFFIX)
        if name in holder:
            site_file.report(path, f"{name} is set as well (keep one of the two)", at_key=True)
        elif not isinstance(file, FileText):
            site_file.report(path, f"must be a string, not {type_name(file)}")
        else:
            try:
                secret = read(file.folder / file)
            except UnicodeDecodeError:
                site_file.report(path, "cannot be read: it is not UTF-8 (save it as UTF-8)")
            except OSError as error:
                site_file.report(path, f"cannot be read: {(error.strerror or str(error)).lower()}")
            else:
                holder[name] = FileText(secret.removesuffix("\n").removesuffix("\r"), file.folder)


def _table_at(table: Any, path: KeyPath) -> Any:
    for part in path:
        table = table.get(part) if isinstance(table, dict) else None
    return table
