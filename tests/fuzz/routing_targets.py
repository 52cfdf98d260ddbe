"""Fuzz targets: what programs write, what clients write to programs, and templates."""

import json
from collections.abc import Iterable
from typing import Any, Final

from scalesocket.errors import BackendError
from scalesocket.wire.batch import Batch, ClientId
from scalesocket.wire.frames import Event, Opcode
from scalesocket.wire.json_routing import CONTROL_KEYS, SERVER_KEYS
from scalesocket.wire.routed import CloseClients, Metadata
from scalesocket.wire.routing import Router, make_encoder, make_router
from scalesocket.wire.template import parse_template
from tests.fuzz.source import Source

SENDER: Final = ClientId(7)
MAX_RECORD: Final = 1_000
DELIMITERS: Final = (None, "\n", ";", ";\n", "é", "\0")


def fuzz_output(data: bytes) -> None:
    """The output of a program with each routing: valid results, or an error of the backend, in bounded memory."""
    source = Source(data)
    router = make_router(
        source.choose(("broadcast", "json", "gwsocket")),
        binary=source.number() % 4 == 1,
        delimiter=source.choose(DELIMITERS),
        byte_order=source.choose(("little", "big")),
        max_record=MAX_RECORD,
    )
    try:
        for chunk in source.chunks():
            check_routed(router.route(chunk))
        check_routed(router.finish())
    except BackendError:
        assert list(router.route(b"more")) == list(router.finish()) == []


def check_routed(routed: Iterable[Any]) -> None:
    for one in routed:
        match one:
            case Batch():
                assert one.opcode in (Opcode.TEXT, Opcode.BINARY)
                for payload in one.payloads:
                    assert one.opcode is Opcode.BINARY or payload.decode() is not None
                assert all(0 < client < 1 << 32 for client in (one.to or ())), one.to
                assert one.frames
            case Metadata():
                assert isinstance(json.loads(one.value), dict)
            case CloseClients():
                assert one.code == 1000 or 4000 <= one.code <= 4999
                one.reason.encode(errors="surrogatepass")


def fuzz_json_input(data: bytes) -> None:
    """A client's message to a program with routing `json`: one record that says who sent it, without keys that it may not set."""
    source = Source(data)
    delimiter = source.choose(DELIMITERS)
    allowed = source.choose((frozenset[str](), frozenset({"_to", "_cache"})))
    opcode = source.choose((Opcode.TEXT, Opcode.BINARY))
    payload = source.rest()
    if opcode is Opcode.TEXT:
        payload = payload.decode(errors="replace").encode()
    encoder = make_encoder("json", delimiter=delimiter, client_keys=allowed)

    written, drops = encoder.encode(SENDER, [(opcode, payload)])

    if drops:
        assert written == b""
        return
    end = ("\n" if delimiter is None or "\n" in delimiter else delimiter[0]).encode()
    assert written.endswith(end)
    record = written[: -len(end)]
    for character in delimiter or "\n":
        assert character.encode() not in record, "a client wrote two records"
    pairs: list[tuple[str, object]] = json.loads(
        record.decode(errors="replace"), object_pairs_hook=lambda found: found, parse_int=str, parse_float=str
    )
    names = [name for name, _ in pairs]
    assert names.count("_from") == 1
    assert dict(pairs)["_from"] == str(SENDER)
    assert set(names).isdisjoint((SERVER_KEYS | CONTROL_KEYS) - allowed - {"_from"})


def fuzz_gwsocket_input(data: bytes) -> None:
    """Clients' messages that a program echoes come back as they were."""
    source = Source(data)
    delimiter = source.choose((None, "\n", "é"))
    byte_order = source.choose(("little", "big"))
    messages: list[Event] = [(source.choose((Opcode.TEXT, Opcode.BINARY)), source.part()) for _ in range(source.number() % 8)]
    messages = [(opcode, text.decode(errors="replace").encode()) for opcode, text in messages]
    encoder = make_encoder("gwsocket", delimiter=delimiter, byte_order=byte_order)
    router: Router = make_router("gwsocket", delimiter=delimiter, byte_order=byte_order, max_record=1 << 20)
    written, drops = encoder.encode(SENDER, messages)
    assert not drops
    routed = [one for at in range(0, len(written), 5) for one in router.route(written[at : at + 5])]
    assert all(isinstance(one, Batch) and one.to == {SENDER} for one in routed)
    assert [(one.opcode, payload) for one in routed if isinstance(one, Batch) for payload in one.payloads] == messages


OBJECTS: Final = (
    '{"t":"Join","_from":#ID,"_event":"join"}',
    '{"name":"#QUERY_NAME","room":"#ROOM","age":#QUERY_AGE,"from":"#REMOTE_ADDR","all":#QUERY_STRING}',
    '["#QUERY_A_#QUERY_B",#QUERY_C,{"#ROOM":#ROOM}]',
)
"""Templates that are JSON."""


def fuzz_template(data: bytes) -> None:
    """Join messages: a client's values change neither the structure of JSON nor the number of records."""
    source = Source(data)
    is_own = source.flag()
    delimiters = source.choose((None, ";", "é\n"))
    text = (
        source.part().decode(errors="replace") if is_own else source.choose((*OBJECTS, "#ID joins #ROOM: #QUERY_STRING #QUERY_A"))
    )
    room, address = source.part().decode(errors="replace"), source.part().decode("latin-1")
    query = source.rest().decode(errors="replace")
    template = parse_template(text, delimiters)
    rendered = template.render(SENDER, room, address, query)
    if is_own:
        return
    assert not set(b"\r\n\0").intersection(rendered)
    if text in OBJECTS and delimiters is None:
        honest = json.loads(template.render(SENDER, "lobby", "192.0.2.1:80", ""))
        value = json.loads(rendered)
        assert len(value) == len(honest)
        if isinstance(value, dict):
            assert value.keys() == honest.keys()
    elif text not in OBJECTS:
        assert not any(character in rendered.decode() for character in delimiters or "")
