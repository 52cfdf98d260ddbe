"""Routing: who gets what a backend says, and how a backend is told what clients say.

A router turns chunks into values for the room, an encoder turns clients' messages into bytes for the backend. An app
chooses one of each by name: `broadcast`, `json` or `gwsocket`.
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
from scalesocket.wire.text import MENDED, is_utf8, mend_utf8

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
        """Return what follows from this chunk, in order.

        Iterating raises BackendError where the backend broke its contract, after everything that was good before;
        the router is silent from then on.
        """

    def finish(self) -> Iterable[Routed]:
        """Return what follows from the output having ended: the last record may lack its delimiter."""


class Encoder(Protocol):
    """Writes the input of one backend."""

    def encode(self, sender: ClientId, messages: Sequence[Event]) -> tuple[bytes, Sequence[Drop]]:
        """Return the messages of one client as one write, and what had to be left out."""

    def encode_text(self, sender: ClientId, text: bytes) -> bytes:
        """Return a join or leave message about `sender` as one record."""


Address = Callable[[Sequence[bytes], bytes, Opcode], list[Routed]]
"""Says who gets each of these records; the second argument is all of them in one piece."""


def address_everyone(records: Sequence[bytes], text: bytes, opcode: Opcode) -> list[Routed]:
    """Send all records to everyone."""
    return [Batch(records, opcode)]


ADDRESSES: Final = {"broadcast": address_everyone, "json": address_json}


class TextRouter:
    """Splits chunks into records and sends each as a text message, bad UTF-8 mended."""

    __slots__ = ("_address", "_is_broken", "_splitter")

    def __init__(self, splitter: Splitter, address: Address) -> None:
        """Give records to those `address` says."""
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
        return self._give(records) if records else ()

    def finish(self) -> Iterable[Routed]:
        """Route the last record if it has no delimiter. Raises RecordTooLong."""
        if self._is_broken:
            return ()
        try:
            records = self._splitter.finish()
        except RecordTooLong as error:
            return self._break(error)
        return self._give(records) if records else ()

    def _break(self, error: RecordTooLong) -> Iterable[Routed]:
        self._is_broken = True
        return then_raise(self._give(error.records), error)

    def _give(self, records: Sequence[bytes]) -> list[Routed]:
        # One look at all of them: a newline between them keeps half a character from being completed by the next record.
        text = records[0] if len(records) == 1 else b"\n".join(records)
        if text.isascii() or is_utf8(text):
            return self._address(records, text, Opcode.TEXT)
        mended = [mend_utf8(record) for record in records]
        return [MENDED, *self._address(mended, b"\n".join(mended), Opcode.TEXT)]


class BinaryRouter:
    """Sends each chunk as a binary message, as it is."""

    __slots__ = ("_address",)

    def __init__(self, address: Address) -> None:
        """Give chunks to those `address` says."""
        self._address = address

    def route(self, chunk: bytes) -> Iterable[Routed]:
        """Route one chunk."""
        return self._address([chunk], chunk, Opcode.BINARY)

    def finish(self) -> Iterable[Routed]:
        """Nothing is ever left."""
        return ()


class PlainEncoder:
    """Passes each message on as it is."""

    __slots__ = ("_terminator",)

    def __init__(self, terminator: bytes) -> None:
        """End each message with `terminator`, which may be empty."""
        self._terminator = terminator

    def encode(self, sender: ClientId, messages: Sequence[Event]) -> tuple[bytes, Sequence[Drop]]:
        """Make one write of a client's messages."""
        payloads = [payload for _, payload in messages]
        payloads.append(b"")
        return self._terminator.join(payloads), ()

    def encode_text(self, sender: ClientId, text: bytes) -> bytes:
        """Make a record of a join or leave message."""
        return text + self._terminator


def make_router(
    routing: str, *, binary: bool = False, delimiter: str | None = None, byte_order: ByteOrder = "little", max_record: int
) -> Router:
    """Make what reads a backend's output; `routing` is `broadcast`, `json` or `gwsocket`.

    `delimiter`: characters, each of which ends a record (None: a newline; none at all for gwsocket). `max_record`: in
    bytes. `binary` sends each chunk as it comes. Raises ValueError for another routing.
    """
    if routing == "gwsocket":
        return GwsocketRouter(byte_order, delimiter or "", max_record=max_record)
    address = ADDRESSES.get(routing)
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
    """Make what writes a backend's input; `routing` is `broadcast`, `json` or `gwsocket`.

    `delimiter`: as for `make_router`. `input_end` ends what we write; without it a newline does if it is a delimiter, else
    the first of them;
    with `binary` nothing does. `client_keys`: the control keys that clients' messages keep, with `json`. Raises ValueError for
    another routing.
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
