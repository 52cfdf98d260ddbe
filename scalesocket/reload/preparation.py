"""Two-phase commit of an edit: everything that can fail is prepared first, then all is committed, or all is rolled back."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, runtime_checkable

import anyio

from scalesocket.cleanup import logged_faults
from scalesocket.config.model import Site
from scalesocket.config.plan import Plan


class Preparation(Protocol):
    """Something opened for an edit while its predecessor still serves: listeners, a TLS context, a control socket.

    Before the commit clients do not notice it: it accepts no connection and shows no certificate.
    """

    def commit(self) -> None:
        """Replace the predecessor. Must not fail or wait."""

    def roll_back(self) -> None:
        """Close it; the predecessor stays in use. Must not fail or wait."""


@runtime_checkable
class Warns(Protocol):
    """A preparation that found something wrong which does not stop the edit."""

    @property
    def warnings(self) -> Sequence[str]:
        """What is wrong, and what stays in use."""


@runtime_checkable
class Finishes(Protocol):
    """A preparation that waits for something after all was committed."""

    async def finish(self) -> None:
        """Wait, within a deadline of its own. Must not fail."""


Prepare = Callable[[Site, Plan], Awaitable[Preparation]]
"""Opens what an edited site needs. Raises ScalesocketError or OSError, after closing what it had opened."""


async def prepare_all(prepares: Sequence[Prepare], site: Site, plan: Plan) -> list[Preparation]:
    """Prepare one after the other. If one fails, roll back those before it and raise its error."""
    done: list[Preparation] = []
    try:
        for prepare in prepares:
            done.append(await prepare(site, plan))
    except BaseException:
        roll_back_all(done)
        raise
    return done


def warnings_of(prepared: Sequence[Preparation]) -> tuple[str, ...]:
    """Return what preparations warn of."""
    return tuple(warning for one in prepared if isinstance(one, Warns) for warning in one.warnings)


def commit_all(prepared: Sequence[Preparation]) -> None:
    """Commit all, in order. One that fails because of a bug does not stop the others."""
    for one in prepared:
        with logged_faults("committing an edit", what=type(one).__name__):
            one.commit()


async def finish_all(prepared: Sequence[Preparation]) -> None:
    """Let those finish that wait after the commit, in order. The edit is in force, so a caller that leaves does not stop them."""
    for one in prepared:
        if isinstance(one, Finishes):
            with anyio.CancelScope(shield=True), logged_faults("finishing an edit", what=type(one).__name__):
                await one.finish()


def roll_back_all(prepared: Sequence[Preparation]) -> None:
    """Roll back all, in reverse order. One that fails because of a bug does not stop the others."""
    for one in reversed(prepared):
        with logged_faults("rolling back an edit", what=type(one).__name__):
            one.roll_back()
