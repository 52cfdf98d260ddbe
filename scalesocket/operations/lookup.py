"""Finds the apps and rooms that an operation names, or says what is there instead."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
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


class NotFoundError(OperationError):
    """What the operation names is not there."""


def find_pools(gateway: Gateway, app: str | None) -> Sequence[RoomPool]:
    """Return the pools of an app (None: of all), and those of removed apps of that name. Raises NotFoundError."""
    pools = gateway.find_all_pools()
    if app is None:
        return pools
    found = [pool for pool in pools if pool.app.name == app]
    if not found and ANY in app:
        raise NotFoundError(f"there is no app {app!r} (* works in the name of a room only)")
    if not found:
        raise NotFoundError(f"there is no app {app!r}{_suggest(app, [pool.app.name for pool in pools], every=True)}")
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
        raise NotFoundError(_no_room(app, room, [one.name for _, one in everything], is_stopping=bool(named)))
    return found


def _no_room(app: str | None, room: str, names: Iterable[str], *, is_stopping: bool) -> str:
    where = "" if app is None else f" of {app}"
    if ANY in room:
        return f"no open room{where} matches {room!r}"
    if is_stopping:
        return f"the room {room!r}{where} is stopping already"
    return f"there is no open room {room!r}{where}{_suggest(room, names)}"


def _suggest(word: str, names: Iterable[str], *, every: bool = False) -> str:
    names = list(dict.fromkeys(names))
    near = next(iter(get_close_matches(word, names, n=1)), None)
    if near is not None:
        return f" (did you mean {near!r}?)"
    return f" (one of: {', '.join(names)})" if every and 0 < len(names) <= MAX_NAMED else ""
