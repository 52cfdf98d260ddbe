"""The versions of packages whose internals are used, and a warning about any other.

`server/hypercorn/` and `server/http/static.py` replace or extend classes that these packages do not document, and a minor
version may change them. pyproject.toml has the same ranges, but not every installation follows them: a Linux distribution
has one version of each package.
"""

import re
from collections.abc import Mapping
from importlib import metadata
from typing import Final

import structlog

log = structlog.get_logger("dependencies")

KNOWN_VERSIONS: Final[Mapping[str, str]] = {
    "hypercorn": ">=0.17,<0.19",
    "h2": ">=4.4,<4.5",
    "priority": ">=2.0,<3",
    "quart": ">=0.20,<0.23",
    "wsproto": ">=1.2,<1.4",
}
"""By package, the versions that the tests have passed with: at least the first, less than the second."""


def warn_of_unknown_versions() -> None:
    """Log a warning for each of these packages whose installed version is outside its range."""
    for package, known in KNOWN_VERSIONS.items():
        try:
            installed = metadata.version(package)
        except metadata.PackageNotFoundError:  # installed without its metadata
            installed = "unknown"
        if not is_known(installed, known):
            hint = f"install a tested version: pip install '{package}{known}'"
            log.warning("dependency not tested in this version", package=package, installed=installed, known=known, hint=hint)


def is_known(version: str, known: str) -> bool:
    """Whether a version such as `0.18.1` is in a range such as `>=0.17,<0.19`. A pre-release counts as its release."""
    low, high = (release_of(bound) for bound in known.split(","))
    return low <= release_of(version) < high


def release_of(version: str) -> tuple[int, ...]:
    """The first numbers of a version: (0, 18, 1) for `0.18.1.post2` and for `<0.18.1`."""
    numbers = re.search(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()
