"""The `routing` key of an app, and the join and leave messages that follow from it."""

from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import model_validator

from scalesocket.config.keys import Table, next_key

JSON_JOIN: Final = '{"t":"Join","_from":#ID,"_event":"join"}'
"""The default join message with `routing = "json"`. Clients' messages can contain `t`, but not `_event`."""
JSON_JOIN_OF_USER: Final = '{"t":"Join","_from":#ID,"_event":"join","user":#USER,"roles":#ROLES}'
"""The same of an app with `auth`."""
JSON_LEAVE: Final = '{"t":"Leave","_from":#ID,"_event":"leave"}'


class Routing(StrEnum):
    """How messages are passed between clients and the backend."""

    BROADCAST = "broadcast"
    JSON = "json"
    GWSOCKET = "gwsocket"


class Routes(Table):
    """The routing of each direction. In the file, one word stands for both."""

    client: Annotated[Routing, next_key("Routing of messages from clients to the backend")] = Routing.BROADCAST
    server: Annotated[Routing, next_key("Routing of records from the backend to clients")] = Routing.BROADCAST

    @model_validator(mode="before")
    @classmethod
    def _both_directions(cls, value: object) -> object:
        if isinstance(value, str):
            return {"client": value, "server": value}
        if not isinstance(value, dict | Routes):
            raise ValueError(f"unknown value {value} (one of: {', '.join(Routing)})")  # noqa: TRY004 - pydantic takes no TypeError
        return value


def default_join_message(app: dict[str, Any]) -> str | None:
    """Return the join message of an app that sets none, by its other keys."""
    if not _is_json_both_ways(app):
        return None
    return JSON_JOIN if app["auth"] is None else JSON_JOIN_OF_USER


def default_leave_message(app: dict[str, Any]) -> str | None:
    """Return the leave message of an app that sets none, by its other keys."""
    return JSON_LEAVE if _is_json_both_ways(app) else None


def _is_json_both_ways(app: dict[str, Any]) -> bool:
    return bool(app["routing"] == Routes(client=Routing.JSON, server=Routing.JSON))
