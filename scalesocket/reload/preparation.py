"""What has to be opened or loaded before an edit can be applied, and is put in use, or let go, as a whole."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from scalesocket.cleanup import logged_faults
from scalesocket.config.model import Site
from scalesocket.config.plan import Plan


class Preparation(Protocol):
    """Listeners, a TLS context, a control socket: ready beside the old ones, which still serve.

    Before the commit it does nothing that a client could notice: no connection is accepted, no certificate is shown.
    """

    def commit(self) -> None:
        """Put it in use, and the old out of it. Nothing in here can fail or wait."""

    def roll_back(self) -> None:
        """Let it go; the old ones never noticed. Nothing in here can fail or wait."""


Prepare = Callable[[Site, Plan], Awaitable[Preparation]]
"""Opens what an edited site needs. Raises ScalesocketError or OSError, and then has let go of what it had opened."""


async def prepare_all(prepares: Sequence[Prepare], site: Site, plan: Plan) -> list[Preparation]:
    """Prepare one after the other; if one fails, those before it are taken back and its error is raised."""
    done: list[Preparation] = []
    try:
        for prepare in prepares:
            done.append(await prepare(site, plan))
    except BaseException:
        roll_back_all(done)
        raise
    return done


def commit_all(prepared: Sequence[Preparation]) -> None:
    """Put all of it in use, in order. One that fails because of a bug does not stop the others."""
    for one in prepared:
        with logged_faults("putting an edit in use", what=type(one).__name__):
            one.commit()


def roll_back_all(prepared: Sequence[Preparation]) -> None:
    """Take all of it back, in reverse order. One that fails because of a bug does not stop the others."""
    for one in reversed(prepared):
        with logged_faults("taking back an edit", what=type(one).__name__):
            one.roll_back()
