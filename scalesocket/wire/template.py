"""Templates of join and leave messages: variables `#ID`, `#ROOM`, `#REMOTE_ADDR`, `#QUERY_STRING` and `#QUERY_<PARAM>`.

In apps with authentication also `#USER`, `#ROLES` and `#INFO`.
"""

import json
import re
from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, quote

from scalesocket.wire.batch import ClientId
from scalesocket.wire.json_text import OneLine, escape_character

_VARIABLE: Final = re.compile(r"#(ID|ROOM|REMOTE_ADDR|QUERY_STRING|QUERY_[\w.~-]+)")
_VARIABLE_OF_USERS: Final = re.compile(rf"{_VARIABLE.pattern}|#(USER|ROLES|INFO)(?!\w)")
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_CONTROLS: Final = "".join(map(chr, [*range(0x20), 0x7F, 0x85, 0x2028, 0x2029]))
_QUERY: Final = "QUERY_"
_OF_IDENTITY: Final = frozenset({"USER", "ROLES", "INFO"})


class _Place(Enum):
    """The place of a variable in a template, which decides how its value is escaped."""

    TEXT = "outside JSON"
    STRING = "within a JSON string"
    VALUE = "as a JSON value"


class ClientIdentity(NamedTuple):
    """What a template may say of an authenticated client."""

    user: str | None
    """None for a guest."""
    roles: tuple[str, ...]
    info: str
    """JSON on one line."""


UNKNOWN: Final = ClientIdentity(None, ("write",), "null")
"""A client that joined before its app had authentication."""


class Template:
    """A message with variables. Their values, which clients choose in part, cannot change its structure."""

    __slots__ = ("_json_escapes", "_one_line", "_parts", "_text_escapes")

    def __init__(self, parts: tuple[tuple[str, str, _Place], ...], delimiters: str) -> None:
        """Hold the result of `parse_template`: literal texts, each with the variable after it and its place."""
        self._parts = parts
        self._one_line = OneLine(delimiters)
        forbidden = _CONTROLS + delimiters
        self._text_escapes = str.maketrans({character: quote(character, safe="") for character in forbidden})
        self._text_escapes.update({ord(character): f"%{ord(character):02X}" for character in delimiters if character.isascii()})
        self._json_escapes = str.maketrans(
            {'"': '\\"', "\\": "\\\\"} | {character: escape_character(character) for character in forbidden}
        )

    def render(self, client_id: ClientId, room: str, remote_addr: str, query: str, identity: ClientIdentity = UNKNOWN) -> bytes:
        """Fill in the values of one client. `query`: the raw query string.

        Values of parameters are percent-encoded. The variable of a missing parameter stays as it is, as in the original, or
        becomes null as a JSON value. Within JSON, values are escaped, and a JSON value that is not a number becomes a string.
        Outside JSON, control characters and delimiters are percent-encoded, so that the message stays one record.
        """
        values = {"ID": str(client_id), "ROOM": room, "REMOTE_ADDR": remote_addr, "QUERY_STRING": query}
        parameters: Mapping[str, str] | None = None
        written = []
        for literal, variable, place in self._parts:
            written.append(literal)
            if variable in values:
                written.append(self._write(values[variable], place))
            elif variable in _OF_IDENTITY:
                written.append(self._write_identity(variable, identity, place))
            elif variable:
                if parameters is None:
                    parameters = {name.upper(): value for name, value in parse_qsl(query, keep_blank_values=True)}
                written.append(self._write_parameter(variable, parameters, place))
        return "".join(written).encode(errors="replace")

    def _write(self, value: str, place: _Place) -> str:
        if place is _Place.TEXT:
            return value.translate(self._text_escapes)
        if place is _Place.VALUE and _NUMBER.fullmatch(value):
            return value
        escaped = value.translate(self._json_escapes)
        return f'"{escaped}"' if place is _Place.VALUE else escaped

    def _write_identity(self, variable: str, identity: ClientIdentity, place: _Place) -> str:
        """Write user, roles or info. As JSON values they are a string or null, a list of strings, and any value."""
        user, roles, info = identity
        if place is not _Place.VALUE:
            return self._write({"USER": user or "", "ROLES": ",".join(roles)}.get(variable, info), place)
        if variable == "USER":
            return "null" if user is None else f'"{user.translate(self._json_escapes)}"'
        if variable == "ROLES":
            return f"[{','.join(map(json.dumps, roles))}]"
        return self._one_line(info.encode()).decode()

    def _write_parameter(self, variable: str, parameters: Mapping[str, str], place: _Place) -> str:
        """Write the longest parameter that the variable begins with: `#QUERY_A_#QUERY_B` is two variables and a `_`.

        As a JSON value it is the whole name, because a rest after the value would not be JSON.
        """
        name = variable.removeprefix(_QUERY)
        shortest = len(name) if place is _Place.VALUE else 1
        for end in range(len(name), shortest - 1, -1):
            value = parameters.get(name[:end])
            if value is not None:
                return self._write(quote(value, safe=""), place) + name[end:]
        return "null" if place is _Place.VALUE else f"#{variable}"


def parse_template(text: str, delimiters: str | None = None, *, has_identity: bool = False) -> Template:
    """Parse the variables of a template, which is JSON if it is an object, an array or a string with the variables filled in.

    Line ends around the template are removed, and JSON on several lines is joined to one.

    `delimiters`: characters that values must not contain, besides control characters. `has_identity`: whether `#USER`, `#ROLES`
    and `#INFO` are variables; otherwise they are text.
    """
    text = text.strip("\r\n")
    variable = _VARIABLE_OF_USERS if has_identity else _VARIABLE
    is_json = _is_json(variable.sub("0", text))
    if is_json and not set("\r\n").isdisjoint(text):
        text = OneLine("")(text.encode()).decode()
    parts = []
    at, is_in_string = 0, False
    for match in variable.finditer(text):
        literal = text[at : match.start()]
        if is_json:
            # In JSON, quotes without a backslash begin and end strings.
            is_in_string ^= re.sub(r"\\.", "", literal).count('"') % 2 == 1
            place = _Place.STRING if is_in_string else _Place.VALUE
        else:
            place = _Place.TEXT
        parts.append((literal, match[match.lastindex or 1], place))
        at = match.end()
    parts.append((text[at:], "", _Place.TEXT))
    return Template(tuple(parts), delimiters or "")


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), (dict, list, str))
    except (ValueError, RecursionError):
        return False
