"""JSON routing: objects of a backend name their recipients, and objects of clients get the id of their sender."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from scalesocket.wire.batch import NOBODY, Batch, ClientId
from scalesocket.wire.frames import Event, Opcode
from scalesocket.wire.json_text import OneLine
from scalesocket.wire.routed import CloseClients, Drop, Metadata, Routed

# --- From the backend

_Id = Annotated[ClientId, msgspec.Meta(ge=0, le=2**32 - 1)]


class _Fields(msgspec.Struct, gc=False):
    """The keys of a backend's object that routing reads. msgspec checks the syntax of the rest without making objects."""

    to: _Id | frozenset[_Id] | None = msgspec.field(name="_to", default=None)
    exclude: _Id | frozenset[_Id] | None = msgspec.field(name="_except", default=None)
    close: Any = msgspec.field(name="_close", default=None)
    meta: Any = msgspec.field(name="_meta", default=None)
    cache: Any = msgspec.field(name="_cache", default=None)
    reason: Any = None


_Address = tuple[frozenset[ClientId] | None, frozenset[ClientId], bool | None]
"""`to`, `exclude` and `cache` of a batch."""

_EVERYONE: Final[_Address] = (None, NOBODY, None)
_ZERO: Final = frozenset((ClientId(0),))
_COMMAND: Final = frozenset({"_to", "_except", "_close", "_cache", "reason"})

WRONG_ADDRESS: Final = Drop("_to and _except must be an id or a list of ids: the message was sent to nobody")
UNREADABLE: Final = Drop("the object cannot be read (nested too deep, or a number too long): the message was sent to nobody")
WRONG_META: Final = Drop("a _meta object must be JSON: the metadata stays as it was")
WRONG_CLOSE: Final = Drop("_close must be 1000, 4000 to 4399 or 4500 to 4999: nobody was closed")
CLOSE_WITHOUT_TO: Final = Drop("_close needs a _to: nobody was closed")

_decode_fields: Final = msgspec.json.Decoder(_Fields).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_encode: Final = msgspec.json.Encoder().encode

# Patterns that begin with a literal are fast: 0.05 us for 100 bytes, while five `in` take 0.3 us. Keys may have escaped letters.
_find_key: Final = re.compile(rb'_(?:to|except|close|meta|cache)"').search
_find_escaped_letter: Final = re.compile(rb"\\u00[4-7]").search


def address_json(records: Sequence[bytes], text: bytes, opcode: Opcode) -> list[Routed]:
    """Route records by `_to`, `_except`, `_close`, `_meta` and `_cache`. Consecutive records for the same clients share a batch.

    `text`: all records joined. Records that are not JSON objects are sent to everyone.
    """
    if not (95 in text and _find_key(text)) and not (92 in text and _find_escaped_letter(text)):
        return [Batch(records, opcode)]
    routed: list[Routed] = []
    address = _EVERYONE
    run: list[bytes] = []

    def close_batch() -> None:
        nonlocal run
        if run:
            to, exclude, cache = address
            routed.append(Batch(run, opcode, to=to, exclude=exclude, cache=cache))
            run = []

    for record in records:
        record_address, commands = _route(record)
        if record_address is not None:
            if record_address != address:
                close_batch()
                address = record_address
            run.append(record)
        if commands:
            close_batch()
            routed += commands
    close_batch()
    return routed


def _route(record: bytes) -> tuple[_Address | None, Sequence[Routed]]:
    """Return the address of a record, None if it is not sent, and the results that follow it."""
    try:
        fields = _read_fields(record)
    except msgspec.ValidationError:
        return None, [WRONG_ADDRESS]
    except (RecursionError, ValueError):
        return None, [UNREADABLE]
    if fields is None:
        return _EVERYONE, ()
    if fields.meta is True:
        return None, [_read_metadata(record)]
    to, exclude, cache, code = fields.to, NOBODY, fields.cache, fields.close
    if to is not None:
        to = _ids(to)
    if fields.exclude is not None:
        exclude = _ids(fields.exclude)
        if to is not None:
            to, exclude = to - exclude, NOBODY
    address = (to, exclude, cache if isinstance(cache, bool) else None)
    if code is None:
        return address, ()
    if to is None:
        return address, [CLOSE_WITHOUT_TO]
    if type(code) is not int or not (code == 1000 or 4000 <= code <= 4399 or 4500 <= code <= 4999):
        return address, [WRONG_CLOSE]
    close = CloseClients(to, code, fields.reason if isinstance(fields.reason, str) else "")
    return (None if _is_command(record) else address), [close]


def _read_fields(record: bytes) -> _Fields | None:
    """Decode the keys of an object; None if the record is not a JSON object.

    Raises ValidationError for an invalid address, RecursionError and ValueError for an object beyond the limits of the decoders.
    """
    try:
        return _decode_fields(record)
    except msgspec.ValidationError:
        if record.lstrip()[:1] == b"{":
            raise
        return None
    except msgspec.DecodeError:
        # Python's json module writes NaN, Infinity and half surrogate pairs, which are not JSON. Such an object must not be sent
        # to everyone, so everything that the json module reads counts as JSON.
        try:
            value = json.loads(str(record, "utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            return None
        return msgspec.convert(value, _Fields) if isinstance(value, dict) else None


def _ids(field: ClientId | frozenset[ClientId]) -> frozenset[ClientId]:
    """Return the clients that a field names; 0 names none."""
    if isinstance(field, int):
        return frozenset((field,)) if field else NOBODY
    return field - _ZERO


def _read_metadata(record: bytes) -> Metadata | Drop:
    try:
        members = _decode_members(record)
    except ValueError:
        return WRONG_META
    del members["_meta"]
    return Metadata(_encode(members))


def _is_command(record: bytes) -> bool:
    """Return whether an object has only keys of a close command."""
    members: Mapping[str, object]
    try:
        members = _decode_members(record)
    except ValueError:  # not JSON, but read by the json module: see `_read_fields`
        members = json.loads(str(record, "utf-8"))
    return members.keys() <= _COMMAND


# --- To the backend


NOT_AN_OBJECT: Final = Drop("a client's message is not a JSON object")
CUT_BY_DELIMITER: Final = Drop("a client's JSON cannot be written without a delimiter in it")

SERVER_KEYS: Final = frozenset({"_from", "_event"})
"""Keys that only the server sets. They are removed from clients' messages."""
CONTROL_KEYS: Final = frozenset({"_to", "_except", "_close", "_meta", "_cache"})
"""Keys that control routing. They are removed from clients' messages, unless the app allows them."""


class JsonEncoder:
    """Writes clients' objects as records: sets `_from` to the client's id, and removes keys that clients may not set."""

    __slots__ = ("_check", "_end", "_find_end", "_one_line", "_removed_keys", "_terminator")

    def __init__(self, delimiters: str, terminator: bytes, client_keys: Iterable[str] = ()) -> None:
        """End each record with `terminator`, and keep the characters of `delimiters` out of records.

        `client_keys`: the control keys that clients may set.
        """
        self._terminator = terminator
        self._removed_keys = SERVER_KEYS | CONTROL_KEYS.difference(client_keys)
        self._check = _make_check(self._removed_keys)
        ends = [character.encode() for character in dict.fromkeys(delimiters)]
        # A single byte is searched with `in`, which is faster than a call.
        self._end = ends[0][0]
        self._find_end = None if len(ends) == 1 and len(ends[0]) == 1 else re.compile(b"|".join(map(re.escape, ends))).search
        self._one_line = OneLine(delimiters)

    def encode(self, sender: ClientId, messages: Sequence[Event]) -> tuple[bytes, Sequence[Drop]]:
        """Encode messages of one client as one write. Messages that are not JSON objects are dropped.

        `_from` is inserted into the text, which stays as it is otherwise. Decoding and encoding would take three times as long,
        and change large numbers.
        """
        head = b'{"_from":%d,' % sender
        check, end, find_end = self._check, self._end, self._find_end
        records = []
        drops: list[Drop] = []
        for _, payload in messages:
            record: bytes | None = None
            try:
                # Keys to remove have an underscore or an escape; most messages have neither.
                (check if 95 in payload or 92 in payload else _check_object)(payload)
                if payload[1] == 34:  # a quote: after `{`, so the object has a key
                    record = head + payload[1:]
            except (ValueError, RecursionError):
                pass
            if record is None:
                record = self._rewrite(sender, payload)
                if record is None:
                    drops.append(NOT_AN_OBJECT)
                    continue
            if end in record if find_end is None else find_end(record):
                record = self._one_line(record)
                if end in record if find_end is None else find_end(record):
                    drops.append(CUT_BY_DELIMITER)
                    continue
            records.append(record)
        if records:
            records.append(b"")
        return self._terminator.join(records), drops

    def encode_text(self, sender: ClientId, text: bytes) -> bytes:
        """Encode a join or leave message as a record."""
        return text + self._terminator

    def _rewrite(self, sender: ClientId, payload: bytes) -> bytes | None:
        """Set `_from` and remove keys, without changing other values; None if the payload is not an object."""
        try:
            members = _decode_members(payload)
        except (ValueError, RecursionError):  # UnicodeDecodeError too: binary messages may be invalid UTF-8
            return None
        kept = {key: value for key, value in members.items() if key not in self._removed_keys}
        return _encode({"_from": sender, **kept})


@lru_cache(maxsize=64)
def _make_check(keys: frozenset[str]) -> Callable[[bytes], object]:
    """Return a function that raises ValueError or RecursionError unless its argument is a JSON object without these keys.

    msgspec compares decoded keys, so escapes and duplicates are found; no JSON value has the type `UnsetType`.
    """
    fields = [(f"key_{at}", UnsetType, msgspec.field(name=key, default=UNSET)) for at, key in enumerate(sorted(keys))]
    return msgspec.json.Decoder(msgspec.defstruct("Checked", fields, gc=False)).decode


_check_object: Final = _make_check(frozenset())
