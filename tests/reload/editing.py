"""A site file that is served and edited."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from scalesocket.config.load import load_site
from scalesocket.config.model import Site
from scalesocket.config.plan import Plan
from scalesocket.gateway import Gateway
from scalesocket.reload.open import open_reloader
from scalesocket.reload.overrides import NO_OVERRIDES, Overrides
from scalesocket.reload.preparation import Preparation, Prepare
from scalesocket.reload.reloader import Reloader
from tests.playing import Playground, open_playground, until

SERVER: Final = '[server]\nbind = "127.0.0.1:0"\ncontrol = "off"\n'
CHAT: Final = '[apps.chat]\ncommand = ["cat"]\n'
OTHER: Final = '[apps.other]\ncommand = ["cat"]\n'
WITHIN: Final = 2.0 + 0.5
"""Seconds within which an edit must be applied, on a busy machine."""


class Edited:
    """A served site file."""

    def __init__(self, file: Path, playground: Playground, reloader: Reloader) -> None:
        self.file = file
        self.playground = playground
        self.reloader = reloader

    @property
    def gateway(self) -> Gateway:
        return self.playground.gateway

    @property
    def generation(self) -> int:
        return self.gateway.reload_state.generation

    @property
    def last_error(self) -> str | None:
        return self.gateway.reload_state.last_error

    def write(self, text: str) -> None:
        """Edit the file."""
        self.file.write_text(text)

    async def wait_applied(self, generation: int = 2) -> None:
        """Wait until an edit is applied; it must be this one."""
        await until(lambda: self.generation >= generation or self.last_error is not None, within=WITHIN)
        assert self.last_error is None
        assert self.generation == generation

    async def wait_refused(self) -> str:
        """Wait until an edit is refused; return the error."""
        await until(lambda: self.last_error is not None, within=WITHIN)
        assert self.last_error is not None
        return self.last_error


def write(file: Path, text: str) -> None:
    file.write_text(text)


@asynccontextmanager
async def open_edited(
    file: Path,
    text: str | None = None,
    *,
    prepare: Sequence[Prepare] = (),
    is_watching: bool = True,
    overrides: Overrides = NO_OVERRIDES,
) -> AsyncIterator[Edited]:
    """Serve a site file (with `text` in it, if given) until the block ends; the listeners are prepared before `prepare`."""
    if text is not None:
        write(file, text)
    async with open_playground(load_site(file)) as playground:

        async def prepare_listeners(site: Site, _: Plan) -> Preparation:
            return await playground.service.listeners.prepare(site.server)

        async with open_reloader(
            playground.gateway, prepare=[prepare_listeners, *prepare], is_watching=is_watching, overrides=overrides
        ) as reloader:
            assert reloader is not None
            yield Edited(file, playground, reloader)
