"""Finds the apps and rooms that an operation names, or says what is there instead."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from enum import IntEnum
from typing import Final

from scalesocket.auth.identity import matches
from scalesocket.errors import ScalesocketError
from scalesocket.gateway import Gateway
from scalesocket.rooms.pool import RoomPool
from scalesocket.rooms.room import Room
from scalesocket.rooms.state import LISTED

ANY: Final = "*"
MAX_NAMED: Final = 8
"""Names of apps that an error lists."""


class OperationError(ScalesocketError):
    """An operation was not carried out: an argument is invalid, or the site cannot do it now."""


class Certainty(IntEnum):
    """How much is there of what an operation names. Of several processes, the one that has most of it knows best."""

    NONE = 0
    ROOM_IS_STOPPING = 1
    NO_SUCH_CLIENT = 2


class NotFoundError(OperationError):
    """What the operation names is not there, with the nearest name that is."""

    def __init__(self, text: str, *, certainty: Certainty = Certainty.NONE, word: str = "", near: str | None = None) -> None:
        """`near`: a name that may be meant instead of `word`. `certainty`: how much of what the operation names is there."""
        super().__init__(text if near is None else f"{text} (did you mean {near!r}?)")
        self.text = text
        self.certainty = certainty
        self.word = word
        self.near = near


def find_pools(gateway: Gateway, app: str | None) -> Sequence[RoomPool]:
    """Return the pools of an app (None: of all), and those of removed apps of that name. Raises NotFoundError."""
    pools = gateway.find_all_pools()
    if app is None:
        return pools
    found = [pool for pool in pools if pool.app.name == app]
    if not found and ANY in app:
        raise NotFoundError(f"there is no app {app!r} (* works in the name of a room only)")
    if not found:
        names = list(dict.fromkeys(pool.app.name for pool in pools))
        near = find_near(app, names)
        others = f" (one of: {', '.join(names)})" if near is None and 0 < len(names) <= MAX_NAMED else ""
        raise NotFoundError(f"there is no app {app!r}{others}", word=app, near=near)
    return found


def find_rooms(gateway: Gateway, app: str | None, room: str | None, *, joinable: bool = False) -> list[tuple[RoomPool, Room]]:
    """Return the rooms that match, each with its pool. Stopping ones are included unless only the `joinable` are wanted.

    Raises NotFoundError for an unknown app, for a room that is not open, and for a pattern that matches none.
    """
    everything = [(pool, one) for pool in find_pools(gateway, app) for one in pool.all_rooms]
    if room is None:
        return [(pool, one) for pool, one in everything if not joinable or one.state in LISTED]
    named = [(pool, one) for pool, one in everything if matches(room, one.name)]
    found = [(pool, one) for pool, one in named if not joinable or one.state in LISTED]
    if not found:
        raise _no_room(app, room, [one.name for _, one in everything], is_stopping=bool(named))
    return found


def find_near(word: str, names: Iterable[str]) -> str | None:
    """Return the name that may be meant by `word`."""
    return next(iter(get_close_matches(word, list(dict.fromkeys(names)), n=1)), None)


def _no_room(app: str | None, room: str, names: Iterable[str], *, is_stopping: bool) -> NotFoundError:
    where = "" if app is None else f" of {app}"
    if ANY in room:
        return NotFoundError(f"no open room{where} matches {room!r}")
    if is_stopping:
        return NotFoundError(f"the room {room!r}{where} is stopping already", certainty=Certainty.ROOM_IS_STOPPING)
    return NotFoundError(f"there is no open room {room!r}{where}", word=room, near=find_near(room, names))
