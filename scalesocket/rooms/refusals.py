"""The labels, in metrics, of refusals to join a room: by how the client is closed."""

from collections.abc import Mapping
from typing import Final

from scalesocket.errors import (
    APP_FULL,
    BACKEND_BEHIND,
    MAY_NOT_CREATE,
    ONESHOT_TAKEN,
    ROOM_FULL,
    ROOMS_TOO_FAST,
    SERVER_BUSY,
    TOO_MANY_ROOMS,
    Close,
)

LABELS: Final[Mapping[Close, str]] = {
    APP_FULL: "app_full",
    MAY_NOT_CREATE: "may_not_create",
    TOO_MANY_ROOMS: "too_many_rooms",
    ROOMS_TOO_FAST: "room_rate",
    ROOM_FULL: "room_full",
    ONESHOT_TAKEN: "room_full",
    BACKEND_BEHIND: "backend_behind",
    SERVER_BUSY: "not_claimed",
}
