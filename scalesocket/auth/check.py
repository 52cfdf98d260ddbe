"""Checks of the files that authentication reads, for `scalesocket check` and before a server starts."""

from collections.abc import Iterator
from typing import Final

from scalesocket.auth.sources import AuthFileError, Source, load_source, sources_of
from scalesocket.auth.users import UserTable
from scalesocket.config.machine import find_place
from scalesocket.config.model import Site
from scalesocket.config.parse import Origins
from scalesocket.config.problems import Problem, Severity, key_text
from scalesocket.config.secrets import is_readable_by_others

OPEN: Final = "the file can be read by others (chmod o-r)"
MIXED: Final = (
    "the hashes have different costs, and each attempt takes as long as the highest, {cost} "
    "(renew the others: htpasswd -B -C {cost} FILE USER)"
)


def check_auth_files(site: Site, origins: Origins) -> Iterator[Problem]:
    """Read the files of each app's `auth`. Finds those that cannot be used, and those with secrets that others can read."""
    for name, app in site.apps.items():
        for source in sources_of(app):
            fault = _find_fault(source)
            if fault is not None:
                message, severity = fault
                path = ("apps", name, "auth", *source.key.split("."))
                yield Problem(severity=severity, place=find_place(site, origins, path), key=key_text(path), message=message)


def _find_fault(source: Source) -> tuple[str, Severity] | None:
    try:
        content = load_source(source)
    except AuthFileError as error:
        return str(error), Severity.ERROR
    is_secret = source.key != "jwt.keys_file"
    if is_secret and is_readable_by_others(source.file):
        return OPEN, Severity.WARNING
    if isinstance(content, UserTable) and content.is_mixed:
        return MIXED.format(cost=content.cost), Severity.WARNING
    return None
