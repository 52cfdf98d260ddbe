"""Values from the command line of `serve`, which override the site file, also when it is reloaded."""

from dataclasses import dataclass
from typing import Final, Literal

from scalesocket.config.model import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Values that override those of the file; None for none."""

    bind: tuple[str, ...] | None = None
    log_format: Literal["text", "json"] | None = None
    log_level: Literal["debug", "info", "warning", "error"] | None = None

    def amend(self, site: Site) -> Site:
        """Return the site with these values."""
        log = site.server.log
        log = log.model_copy(update={"format": self.log_format or log.format, "level": self.log_level or log.level})
        server = site.server.model_copy(update={"log": log, "bind": self.bind or site.server.bind})
        return site.model_copy(update={"server": server})


NO_OVERRIDES: Final = Overrides()
