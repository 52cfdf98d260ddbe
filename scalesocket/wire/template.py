"""Templates of join and leave messages: text with `#ID`, `#ROOM`, `#REMOTE_ADDR`, `#QUERY_STRING` and `#QUERY_<PARAM>`."""

import json
import re
from collections.abc import Mapping
from enum import Enum
from typing import Final
from urllib.parse import parse_qsl, quote

from scalesocket.wire.batch import ClientId
from scalesocket.wire.json_text import OneLine, escape_character

_VARIABLE: Final = re.compile(r"#(ID|ROOM|REMOTE_ADDR|QUERY_STRING|QUERY_[\w.~-]+)")
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_CONTROLS: Final = "".join(map(chr, [*range(0x20), 0x7F, 0x85, 0x2028, 0x2029]))
_QUERY: Final = "QUERY_"


class _Place(Enum):
    """Where in a template a variable stands, which decides how its value is written."""

    TEXT = "outside of JSON"
    STRING = "within a JSON string"
    VALUE = "where JSON wants a value"


class Template:
    """A message with places for a client's particulars, which the client chooses in part and cannot break out of."""

    __slots__ = ("_json_escapes", "_parts", "_text_escapes")

    def __init__(self, parts: tuple[tuple[str, str, _Place], ...], delimiters: str) -> None:
        """Keep what `parse_template` found: literal text, and the variable after it with its place."""
        self._parts = parts
        forbidden = _CONTROLS + delimiters
        self._text_escapes = str.maketrans({character: quote(character, safe="") for character in forbidden})
        self._text_escapes.update({ord(character): f"%{ord(character):02X}" for character in delimiters if character.isascii()})
        self._json_escapes = str.maketrans(
            {'"': '\\"', "\\": "\\\\"} | {character: escape_character(character) for character in forbidden}
        )

    def render(self, client_id: ClientId, room: str, remote_addr: str, query: str) -> bytes:
        """Fill in one client's particulars; `query` is the raw query string.

        A parameter's value is percent-encoded. A parameter the client did not give leaves its variable as it stands (as
        the original does), or null where JSON wants a value. Within JSON every value is escaped, and one that is not a
        number becomes a string where JSON wants a value; elsewhere control characters and delimiters are
        percent-encoded, so that one message stays one record.
        """
        values = {"ID": str(client_id), "ROOM": room, "REMOTE_ADDR": remote_addr, "QUERY_STRING": query}
        parameters: Mapping[str, str] | None = None
        written = []
        for literal, variable, place in self._parts:
            written.append(literal)
            if variable in values:
                written.append(self._write(values[variable], place))
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

    def _write_parameter(self, variable: str, parameters: Mapping[str, str], place: _Place) -> str:
        """Take the longest parameter the variable begins with: `#QUERY_A_#QUERY_B` is two variables and a `_`."""
        name = variable.removeprefix(_QUERY)
        for end in range(len(name), 0, -1):
            value = parameters.get(name[:end])
            if value is not None:
                return self._write(quote(value, safe=""), place) + name[end:]
        return "null" if place is _Place.VALUE else f"#{variable}"


def parse_template(text: str, delimiters: str | None = None) -> Template:
    """Find the variables in a template, and whether it is JSON: an object, an array or a string, once they are filled in.

    Line ends around a template are not part of it, and JSON on many lines becomes one line.

    `delimiters`: the characters besides control characters that no value may bring in.
    """
    text = text.strip("\r\n")
    is_json = _is_json(_VARIABLE.sub("0", text))
    if is_json and not set("\r\n").isdisjoint(text):
        text = OneLine("")(text.encode()).decode()
    parts = []
    at, is_in_string = 0, False
    for match in _VARIABLE.finditer(text):
        literal = text[at : match.start()]
        if is_json:
            # Quotes in JSON that no backslash escapes begin and end strings.
            is_in_string ^= re.sub(r"\\.", "", literal).count('"') % 2 == 1
            place = _Place.STRING if is_in_string else _Place.VALUE
        else:
            place = _Place.TEXT
        parts.append((literal, match[1], place))
        at = match.end()
    parts.append((text[at:], "", _Place.TEXT))
    return Template(tuple(parts), delimiters or "")


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), (dict, list, str))
    except (ValueError, RecursionError):
        return False
