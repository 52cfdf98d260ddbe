"""Fuzz targets: the site file and its values."""

from pathlib import Path
from typing import Final

from scalesocket.config.parse import parse_site
from scalesocket.config.problems import ConfigError

SITE: Final = Path("/srv/site.toml")


def fuzz_site(data: bytes) -> None:
    """A site file: a site, or errors that name their places."""
    text = data.decode(errors="replace")
    try:
        site = parse_site(text, SITE, {"NAME": "value", "PORT": "80", "EMPTY": ""})
    except ConfigError as error:
        assert error.problems
        assert all(problem.message for problem in error.problems)
        assert str(error)
    else:
        assert site.apps
        repr(site)
