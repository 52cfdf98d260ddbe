"""Fuzz targets: the protocols of clients and proxies."""

import re
import zlib
from collections.abc import Iterable
from typing import Final

from scalesocket.admission.paths import find_room
from scalesocket.admission.refusals import Refusal
from scalesocket.config.model import App, Site
from scalesocket.errors import RecordTooLong
from scalesocket.wire.accept import choose_coding, choose_named, parse_accept
from scalesocket.wire.authority import is_same_origin, parse_authority
from scalesocket.wire.cgi import environment
from scalesocket.wire.deflate import answer_offers, deflate, inflate
from scalesocket.wire.forwarded import (
    MAX_V1,
    MAX_V2,
    ProxyHeaderError,
    find_client,
    is_forwarded,
    parse_proxy_header,
    starts_proxy_header,
)
from scalesocket.wire.frame_reader import FrameReader
from scalesocket.wire.frames import Event, Opcode
from scalesocket.wire.handshake import (
    HandshakeError,
    Request,
    accept_key,
    check_upgrade,
    choose_subprotocol,
    has_token,
    offered_subprotocols,
    parse_request,
)
from scalesocket.wire.splitter import Splitter
from tests.fuzz.source import Source

PEER: Final = ("192.0.2.1", 4321)
NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
SITE: Final = Site(
    apps={
        "chat": App(name="chat", command=("cat",)),
        "game": App(name="game", command=("cat",), mount="/", room_pattern=r"[^/\x00-\x1f]{1,64}"),
    }
)
CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def read_head(head: bytes) -> Request | None:
    """Parse a request head; None if it is malformed."""
    try:
        return parse_request(head, peer=PEER, local=("127.0.0.1", 9000), is_secure=False)
    except HandshakeError as error:
        assert error.status in (400, 426)
        return None


def fuzz_head(data: bytes) -> None:
    """The request head: parsing, the checks of an upgrade, and everything that is read from its fields."""
    request = read_head(data)
    if request is None:
        return
    assert request.path.startswith("/")
    for name, value in request.headers.items():
        assert NAME.fullmatch(name)
        assert not CONTROLS.search(value)
    for variable, value in environment(
        request, app="chat", room="lobby", script_name="/chat", path_info="/lobby", software="x"
    ).items():
        assert not CONTROLS.search(value), variable
        assert "\t" not in value, variable
        value.encode()  # the program's environment is UTF-8
    _, room = find_room(SITE, request.path)
    assert isinstance(room, Refusal) or (room not in ("", ".", "..") and "\0" not in room)
    host = request.headers.get("host", "")
    parse_authority(host)
    is_same_origin(request.headers.get("origin", ""), host)
    has_token(request.headers.get("connection", ""), "upgrade")
    agreement = answer_offers(request.headers.get("sec-websocket-extensions", ""))
    assert agreement is None or 8 <= agreement.window <= 15
    try:
        accept_key(check_upgrade(request))
        offered = offered_subprotocols(request.headers.get("sec-websocket-protocol", ""))
    except HandshakeError as error:
        assert error.status in (400, 426)
    else:
        assert choose_subprotocol(offered, ["*"]) == offered[0]


def fuzz_proxy(data: bytes) -> None:
    """The PROXY header: the same result however it is cut, and a bounded wait for its end."""
    try:
        whole = parse_proxy_header(data) if starts_proxy_header(data) else None
    except ProxyHeaderError:
        return
    if whole is None:
        assert not starts_proxy_header(data) or len(data) < max(MAX_V1, MAX_V2)
        return
    size, _ = whole
    assert 0 < size <= min(len(data), max(MAX_V1, MAX_V2))
    assert parse_proxy_header(data[:size]) == whole
    for end in range(1, size):
        assert starts_proxy_header(data[:end])
        assert parse_proxy_header(data[:end]) is None, end


def fuzz_forwarded(data: bytes) -> None:
    """The fields in which proxies report a client."""
    source = Source(data)
    names = ("forwarded", "x-forwarded-for", "x-forwarded-proto")
    headers = {name: value.decode("latin-1") for name in names if (value := source.part())}
    is_forwarded(headers)
    client, scheme = find_client(headers, lambda address: address.startswith("10."))
    assert client is None or 0 <= client[1] < 100_000
    assert scheme is None or scheme == scheme.lower()


def fuzz_accept(data: bytes) -> None:
    """Content negotiation."""
    field = data.decode("latin-1")
    for preference in parse_accept(field):
        assert 0 <= preference.weight <= 1
    choose_named(parse_accept(field), ["text/html", "application/json"])
    assert choose_coding(field, ["br", "gzip"]) in (None, "br", "gzip", "identity")


def fuzz_frames(data: bytes) -> None:
    """The frames of a client: valid messages or one failure, the same however they are cut, in bounded memory."""
    source = Source(data)
    max_message = source.choose((1_000, 0, 1, 125, 126, 70_000))
    takes_text, is_deflated = source.flag(), source.flag()
    chunks = source.chunks()
    results = [read_frames(pieces, max_message, takes_text, is_deflated) for pieces in (chunks, [b"".join(chunks)])]
    assert results[0] == results[1]


def read_frames(chunks: Iterable[bytes], max_message: int, takes_text: bool, is_deflated: bool) -> tuple[list[Event], object]:
    reader = FrameReader(max_message=max_message, binary_as_text=takes_text, inflate=inflate if is_deflated else None)
    bound = max_message + (max_message >> 3) + 64 + 14
    events: list[Event] = []
    for chunk in filter(None, chunks):
        events += reader.feed(chunk)
        while reader.has_more and reader.failure is None:
            events += reader.feed(b"")
        if reader.failure is not None or (events and events[-1][0] is Opcode.CLOSE):
            break
        assert len(reader._rest) + len(reader._fragments) <= bound + 14
    for opcode, payload in events:
        assert len(payload) <= max(125, max_message)
        if opcode is Opcode.TEXT:
            payload.decode()
        assert opcode is not Opcode.BINARY or not takes_text
    assert reader.failure is None or reader.failure.code in (1002, 1007, 1009)
    return events, reader.failure


def fuzz_inflate(data: bytes) -> None:
    """permessage-deflate in both directions: at most `limit` bytes, and every message can be read with its window."""
    source = Source(data)
    limit = source.choose((1_000, 0, 1, 100_000))
    window = 8 + source.number() % 8
    payload = source.rest()
    try:
        message = inflate(payload, limit)
    except ValueError:
        pass
    else:
        assert message is None or len(message) <= limit
    assert zlib.decompressobj(-window).decompress(deflate(payload, window) + b"\0\0\xff\xff") == payload
    assert inflate(deflate(payload, window), len(payload)) == payload


def fuzz_splitter(data: bytes) -> None:
    """Records of a program: the same however the output is cut, in bounded memory."""
    source = Source(data)
    delimiters = source.choose(("\n", "\0", ";\n", "é", "…;", "\r", "\n\r"))
    max_record = source.choose((10, 0, 1, 1_000))
    chunks = source.chunks()
    results = [split(pieces, delimiters, max_record) for pieces in (chunks, [b"".join(chunks)])]
    assert results[0] == results[1]


def split(chunks: Iterable[bytes], delimiters: str, max_record: int) -> tuple[list[bytes], bool]:
    splitter = Splitter(delimiters, max_record=max_record)
    records: list[bytes] = []
    try:
        for chunk in chunks:
            records += splitter.feed(chunk)
            assert len(splitter._held) <= max_record + 4
        records += splitter.finish()
    except RecordTooLong as error:
        return records + error.records, True
    assert all(len(record) <= max_record for record in records)
    return records, False
