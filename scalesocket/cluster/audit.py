"""Compares the rooms of this node with those that the directory has for it.

They differ after an answer that did not arrive: a claim that succeeded unnoticed, or a room that the engine has lost. Then the
directory keeps rooms that no node has open, or does not protect one that is.
"""

from collections.abc import Callable, Container, Mapping

import structlog

from scalesocket.cluster.link import EngineError
from scalesocket.cluster.listing import Listing
from scalesocket.cluster.records import RoomName, Session

log = structlog.get_logger("cluster")


class Audit:
    """Repairs what differs in two renewals, one after the other, while nothing is being claimed or released."""

    def __init__(self, lose: Callable[[RoomName, int], None], release: Callable[[RoomName, int, str], None]) -> None:
        """`lose` ends a room of this node that is not its own; `release` gives one up that is not open: name, fence, inc."""
        self._lose = lose
        self._release = release
        self._is_suspicious = False
        self._is_running = False

    def is_due(self, recorded: int, held: int, *, is_busy: bool) -> bool:
        """Note the numbers of rooms in the directory and here. Returns whether to compare the rooms themselves."""
        differs = recorded != held and not is_busy
        is_due = differs and self._is_suspicious and not self._is_running
        self._is_suspicious = differs
        return is_due

    async def run(self, listing: Listing, session: Session, held: Mapping[RoomName, int], claimed: Container[RoomName]) -> None:
        """Compare the rooms. `held`, and those `claimed` without an answer, change meanwhile; only what stays the same counts."""
        before = dict(held)
        self._is_running = True
        try:
            rooms = listing.rooms_of(session.inc, epoch=session.epoch)
            recorded = {room.name: room.fence async for room in rooms}
        except EngineError:
            return  # the next renewal begins again
        finally:
            self._is_running = False
        strays = {name: fence for name, fence in recorded.items() if fence not in (held.get(name), before.get(name))}
        strays = {name: fence for name, fence in strays.items() if name not in claimed}
        missing = {name: fence for name, fence in before.items() if held.get(name) == fence != recorded.get(name)}
        if strays or missing:
            log.warning("rooms of this node corrected in the directory", released=len(strays), lost=len(missing))
        for name, fence in strays.items():
            self._release(name, fence, session.inc)
        for name, fence in missing.items():
            self._lose(name, fence)
