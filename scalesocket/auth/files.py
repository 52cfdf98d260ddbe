"""The files of `auth`, read in one process for others: the supervisor of several workers reads them, and the workers do not."""

from collections.abc import Sequence

from anyio import to_thread

from scalesocket.auth.authenticators import load_all
from scalesocket.auth.sources import Contents, Source, parse_source, read_source
from scalesocket.config.model import Site


class AuthFiles:
    """The last valid contents of the files of a site."""

    def __init__(self, site: Site) -> None:
        """Read the files of `site`. Raises AuthFileError."""
        self.contents: Contents = load_all(site, {}, [], read_valid)
        """Those in force."""

    async def prepare(self, site: Site) -> tuple[Contents, Sequence[str]]:
        """Read the files of an edited site; return their contents, and warnings of broken ones, which keep the last valid.

        Raises AuthFileError for a broken file that was not used before. The caller sets `contents` when the edit is applied.
        """
        warnings: list[str] = []
        contents = await to_thread.run_sync(load_all, site, self.contents, warnings, read_valid, abandon_on_cancel=True)
        return contents, warnings


def read_valid(source: Source) -> bytes:
    """Read a file, and check that it can be used. Raises AuthFileError."""
    content = read_source(source)
    parse_source(source, content)
    return content
