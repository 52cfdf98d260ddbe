"""Routing: the recipients of a backend's output, and the encoding of clients' messages for the backend.

A router turns chunks of output into results for the room; an encoder turns clients' messages into input. An app chooses both by
name: `broadcast`, `json` or `gwsocket`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from scalesocket.errors import RecordTooLong
from scalesocket.wire.batch import Batch, ClientId
from scalesocket.wire.frames import Event, Opcode
from scalesocket.wire.gwsocket import ByteOrder, GwsocketEncoder, GwsocketRouter
from scalesocket.wire.json_routing import JsonEncoder, address_json
from scalesocket.wire.routed import CloseClients, Drop, Metadata, Notice, Routed, then_raise
from scalesocket.wire.splitter import NEWLINE, Splitter
from scalesocket.wire.text import INVALID_UTF8, is_utf8, replace_invalid_utf8

__all__ = [
    "CloseClients",
    "Drop",
    "Encoder",
    "Metadata",
    "Notice",
    "Routed",
    "Router",
    "make_encoder",
    "make_router",
]


class Router(Protocol):
    """Reads the output of one backend."""

    def route(self, chunk: bytes) -> Iterable[Routed]:
        """Return the results of a chunk, in order.

        The iterator raises BackendError at an error of the backend, after the results before it. The router returns nothing
        more after that.
        """

    def finish(self) -> Iterable[Routed]:
        """Return the results at the end of the output: the last record may lack its delimiter."""


class Encoder(Protocol):
    """Writes the input of one backend."""

    def encode(self, sender: ClientId, messages: Sequence[Event]) -> tuple[bytes, Sequence[Drop]]:
        """Return messages of one client as one write, and the messages that were dropped."""

    def encode_text(self, sender: ClientId, text: bytes) -> bytes:
        """Return a join or leave message about `sender` as one record."""


Addresser = Callable[[Sequence[bytes], bytes, Opcode], list[Routed]]
"""Finds the recipients of records; the second argument is all of them joined."""


def address_everyone(records: Sequence[bytes], text: bytes, opcode: Opcode) -> list[Routed]:
    """Send all records to everyone."""
    return [Batch(records, opcode)]


ADDRESSERS: Final = {"broadcast": address_everyone, "json": address_json}


class TextRouter:
    """Splits chunks into records and sends each as a text message. Invalid UTF-8 is replaced."""

    __slots__ = ("_address", "_is_broken", "_splitter")

    def __init__(self, splitter: Splitter, address: Addresser) -> None:
        """Split with `splitter`; `address` finds the recipients."""
        self._splitter = splitter
        self._address = address
        self._is_broken = False

    def route(self, chunk: bytes) -> Iterable[Routed]:
        """Route the records that end in this chunk. Raises RecordTooLong, after those before it."""
        if self._is_broken:
            return ()
        try:
            records = self._splitter.feed(chunk)
        except RecordTooLong as error:
            return self._break(error)
        return self._route(records) if records else ()

    def finish(self) -> Iterable[Routed]:
        """Route the last record if it has no delimiter. Raises RecordTooLong."""
        if self._is_broken:
            return ()
        try:
            records = self._splitter.finish()
        except RecordTooLong as error:
            return self._break(error)
        return self._route(records) if records else ()

    def _break(self, error: RecordTooLong) -> Iterable[Routed]:
        self._is_broken = True
        return then_raise(self._route(error.records) if error.records else (), error)

    def _route(self, records: Sequence[bytes]) -> list[Routed]:
        # One check for all: a newline between records separates incomplete characters.
        text = records[0] if len(records) == 1 else b"\n".join(records)
        if text.isascii() or is_utf8(text):
            return self._address(records, text, Opcode.TEXT)
        valid = [replace_invalid_utf8(record) for record in records]
        return [INVALID_UTF8, *self._address(valid, b"\n".join(valid), Opcode.TEXT)]


class BinaryRouter:
    """Sends each chunk as a binary message, as it is."""

    __slots__ = ("_address",)

    def __init__(self, address: Addresser) -> None:
        """`address` finds the recipients."""
        self._address = address

    def route(self, chunk: bytes) -> Iterable[Routed]:
        """Route one chunk."""
        return self._address([chunk], chunk, Opcode.BINARY)

    def finish(self) -> Iterable[Routed]:
        """Return nothing: chunks are not buffered."""
        return ()


class PlainEncoder:
    """Passes messages on unchanged."""

    __slots__ = ("_terminator",)

    def __init__(self, terminator: bytes) -> None:
        """End each message with `terminator`, which may be empty."""
        self._terminator = terminator

    def encode(self, sender: ClientId, messages: Sequence[Event]) -> tuple[bytes, Sequence[Drop]]:
        """Encode messages of one client as one write."""
        payloads = [payload for _, payload in messages]
        payloads.append(b"")
        return self._terminator.join(payloads), ()

    def encode_text(self, sender: ClientId, text: bytes) -> bytes:
        """Encode a join or leave message as a record."""
        return text + self._terminator


def make_router(
    routing: str, *, binary: bool = False, delimiter: str | None = None, byte_order: ByteOrder = "little", max_record: int
) -> Router:
    """Make the router of a backend's output. `routing`: `broadcast`, `json` or `gwsocket`; ValueError for any other.

    `delimiter`: characters that end a record each; by default a newline, none for gwsocket. `max_record`: in bytes. `binary`:
    send each chunk as a message.
    """
    if routing == "gwsocket":
        return GwsocketRouter(byte_order, delimiter or "", max_record=max_record)
    address = ADDRESSERS.get(routing)
    if address is None:
        raise ValueError(f"unknown routing {routing!r}")
    if binary:
        return BinaryRouter(address)
    return TextRouter(Splitter(delimiter or NEWLINE, max_record=max_record), address)


def make_encoder(
    routing: str,
    *,
    binary: bool = False,
    delimiter: str | None = None,
    input_end: str | None = None,
    byte_order: ByteOrder = "little",
    client_keys: Iterable[str] = (),
) -> Encoder:
    """Make the encoder of a backend's input. `routing`: `broadcast`, `json` or `gwsocket`; ValueError for any other.

    `delimiter`: as for `make_router`. `input_end`: ends each message; by default a newline if that is a delimiter, else the first
    delimiter; nothing with `binary`. `client_keys`: the control keys that clients may use, with `json`.
    """
    delimiters = delimiter or ("" if routing == "gwsocket" else NEWLINE)
    if input_end is None:
        input_end = NEWLINE if NEWLINE in delimiters else delimiters[:1]
    end = input_end.encode()
    match routing:
        case "broadcast":
            return PlainEncoder(b"" if binary else end)
        case "json":
            return JsonEncoder(delimiters + input_end, b"" if binary else end, client_keys)
        case "gwsocket":
            return GwsocketEncoder(byte_order, end)
    raise ValueError(f"unknown routing {routing!r}")
