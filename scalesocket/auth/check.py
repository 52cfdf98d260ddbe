"""Checks of the files that authentication reads, for `scalesocket check` and before a server starts."""

from collections.abc import Iterator
from typing import Final

from scalesocket.auth.keys import HMAC
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
            for message, severity in _find_faults(source):
                path = ("apps", name, "auth", *source.key.split("."))
                yield Problem(severity=severity, place=find_place(site, origins, path), key=key_text(path), message=message)


def _find_faults(source: Source) -> Iterator[tuple[str, Severity]]:
    try:
        content = load_source(source)
    except AuthFileError as error:
        yield str(error), Severity.ERROR
        return
    is_secret = True
    if source.key == "jwt.keys_file":
        possible = frozenset().union(*(key.algorithms for key in content))
        is_secret = possible <= HMAC
        if idle := [name for name in source.algorithms or () if name not in possible]:
            yield f"has no key for {', '.join(idle)} (add the key, or delete the name from algorithms)", Severity.WARNING
    if is_secret and is_readable_by_others(source.file):
        yield OPEN, Severity.WARNING
    if isinstance(content, UserTable) and content.is_mixed:
        yield MIXED.format(cost=content.cost), Severity.WARNING
