"""Secrets in files of their own: `NAME_file` is the path of a file with the value of `NAME`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from scalesocket.config.model import App, Cluster, Server
from scalesocket.config.positions import KeyPath
from scalesocket.config.problems import Problem, Severity, key_text
from scalesocket.config.secrets import FILE_SUFFIX, find_secret_files, find_secret_texts
from scalesocket.config.site_file import SiteFile
from scalesocket.config.toml_document import TomlDocument, model_at
from scalesocket.config.validation_errors import type_name
from scalesocket.config.values import FileText

SecretReader = Callable[[Path], str]
"""Reads the file of a secret; raises OSError or UnicodeDecodeError."""

UNREAD: Final = 64 * "-"
"""Stands for a secret that could not be read. The site is not used."""


def read_secret_files(site_file: SiteFile, read: SecretReader) -> None:
    """Read the secret files of every section of a site file."""
    read_table_secrets(site_file, ("server",), Server, read)
    read_table_secrets(site_file, ("cluster",), Cluster, read)
    read_table_secrets(site_file, ("defaults",), App, read)
    apps = site_file.tables.get("apps")
    for name in apps if isinstance(apps, dict) else ():
        read_table_secrets(site_file, ("apps", name), App, read)


def read_table_secrets(site_file: SiteFile, section: KeyPath, model: type[BaseModel], read: SecretReader) -> None:
    """Replace each `NAME_file` of a secret, in a table of `model`, by `NAME` with the content of the file.

    One newline at the end of the file is removed. Reports a file that cannot be read, and a secret that is set both ways. Instead
    of a secret that could not be read there is a placeholder, so that it is not reported as missing, too.
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
            holder[name] = FileText(UNREAD, site_file.document.folder)
        else:
            secret = UNREAD
            try:
                secret = read(file.folder / file)
            except UnicodeDecodeError:
                site_file.report(path, "cannot be read: it is not UTF-8 (save it as UTF-8)")
            except OSError as error:
                site_file.report(path, f"cannot be read: {(error.strerror or str(error)).lower()}")
            holder[name] = FileText(secret.removesuffix("\n").removesuffix("\r"), file.folder)


def find_exposed_texts(document: TomlDocument) -> Iterator[Problem]:
    """Find the secrets in a file of the site. They are exposed if others can read the file."""
    for section in (
        ("server",),
        ("cluster",),
        ("defaults",),
        *(("apps", name) for name in _names_of(document.tables.get("apps"))),
    ):
        table, found = _table_at(document.tables, section), model_at(section)
        if not isinstance(table, Mapping) or found is None:
            continue
        for path in find_secret_texts(found[0], table, section):
            message = f"can be read by others (chmod o-r {document.file.name}, or write {path[-1]}{FILE_SUFFIX})"
            yield Problem(severity=Severity.WARNING, place=document.value_place(path), key=key_text(path), message=message)


def _names_of(apps: Any) -> Iterable[str]:
    return apps if isinstance(apps, Mapping) else ()


def _table_at(table: Any, path: KeyPath) -> Any:
    for part in path:
        table = table.get(part) if isinstance(table, dict) else None
    return table
