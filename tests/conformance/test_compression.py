"""permessage-deflate on the express lane (RFC 7692): offers, windows, sizes, fragments, and damaged data.

The client's side is made with zlib alone, so that a fault of `wire/deflate.py` cannot hide itself.
"""

import zlib
from collections.abc import Callable
from itertools import product
from random import Random
from typing import Final

import pytest

from tests.conformance.conversation import Conversation, converse, parse_frames
from tests.raw import BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, TEXT, Frame, close_payload, mask_frame

Open = Callable[..., Conversation]

TAIL: Final = b"\x00\x00\xff\xff"
FIELD: Final = "Sec-WebSocket-Extensions: "
NAME: Final = "permessage-deflate"
TEXTS: Final = "".join(f'{{"t":"state","player":{number % 7},"x":{number * 37 % 1000}}},' for number in range(4_000)).encode()
WINDOWS: Final = range(8, 16)


def compress(message: bytes, *, window: int = 15, level: int = 6) -> bytes:
    """Compress without context takeover (RFC 7692 7.2.1)."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window)
    return (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


class Receiver:
    """A client's side of permessage-deflate, with a window of so many bits that it keeps for the next message."""

    def __init__(self, window: int) -> None:
        self._decompressor = zlib.decompressobj(-window)

    def read(self, frame: Frame) -> bytes:
        assert frame.first & ~0x0F == FIN | RSV1, "a message is not compressed"
        return self._decompressor.decompress(frame.payload + TAIL)


def agreed(peer: Conversation) -> dict[str, str | None] | None:
    """The parameters of permessage-deflate in the response; None if it was not agreed on."""
    fields = [line.removeprefix(FIELD) for line in peer.head.split("\r\n") if line.startswith(FIELD)]
    if not fields:
        return None
    (field,) = fields
    name, *parameters = (part.strip() for part in field.split(";"))
    assert name == NAME
    return {key: value or None for key, _, value in (parameter.partition("=") for parameter in parameters)}


# --- Offers (RFC 7692 5 and 7.1)

TAKEOVERS: Final = ("", "; server_no_context_takeover", "; client_no_context_takeover; server_no_context_takeover")
SERVER_WINDOWS: Final = ("", *(f"; server_max_window_bits={bits}" for bits in WINDOWS))
CLIENT_WINDOWS: Final = ("", "; client_max_window_bits", *(f"; client_max_window_bits={bits}" for bits in WINDOWS))


@pytest.mark.parametrize("takeover", TAKEOVERS)
def test_every_valid_offer_is_accepted_with_parameters_that_it_allows(takeover: str) -> None:
    async def scene(open_one: Open) -> None:
        for server, client in product(SERVER_WINDOWS, CLIENT_WINDOWS):
            offer = NAME + takeover + server + client
            parameters = agreed(open_one(FIELD + offer))

            assert parameters is not None, offer
            assert parameters.get("server_max_window_bits") == (server.partition("=")[2] or None), offer
            assert parameters.keys() <= {"server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits"}
            assert parameters["server_no_context_takeover"] is parameters["client_no_context_takeover"] is None

    converse(scene)


@pytest.mark.parametrize(
    ("offers", "window"),
    [
        (f"{NAME}; server_max_window_bits=9, {NAME}", "9"),
        (f"{NAME}; server_max_window_bits=7, {NAME}; server_max_window_bits=10", "10"),
        (f"{NAME}; unknown, {NAME}", None),
        (f"x-webkit-deflate-frame, {NAME}", None),
        (f'{NAME}; server_max_window_bits="12"', "12"),
    ],
)
def test_the_first_valid_offer_is_accepted(offers: str, window: str | None) -> None:
    async def scene(open_one: Open) -> None:
        parameters = agreed(open_one(FIELD + offers))

        assert parameters is not None
        assert parameters.get("server_max_window_bits") == window

    converse(scene)


@pytest.mark.parametrize(
    "parameter",
    [
        *(f"{side}_max_window_bits={bits}" for side in ("server", "client") for bits in ("7", "16", "0", "08", "-9", "9x", '""')),
        "server_max_window_bits",
        *(f"{side}_no_context_takeover={value}" for side in ("server", "client") for value in ("1", "true")),
        "server_no_context_takeover; server_no_context_takeover",
        "client_max_window_bits=9; client_max_window_bits=10",
        "window=9",
    ],
)
def test_an_invalid_offer_is_declined_and_the_websocket_works_without(parameter: str) -> None:
    async def scene(open_one: Open) -> None:
        peer = open_one(f"{FIELD}{NAME}; {parameter}")
        assert agreed(peer) is None

        await peer.send([mask_frame(b"plain")])

        assert parse_frames(bytes(peer.transport.written)) == [Frame(FIN | TEXT, b"plain")]

    converse(scene)


# --- Messages of all sizes, with all windows

SIZES: Final = (0, 1, 16, 64, 250, 256, 257, 512, 1_024, 4_096, 8_192, 32_768, 65_536, 131_072)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kind", ["text", "zeros", "random", "far"])
def test_messages_of_all_sizes_are_read_with_the_agreed_window(window: int, kind: str) -> None:
    random = Random(window)
    content = {
        "text": TEXTS,
        "zeros": bytes(SIZES[-1]),
        "random": random.randbytes(SIZES[-1]),
        # Repeats itself just at the distances that a window of so many bits can and cannot reach.
        "far": b"".join(random.randbytes((1 << window) + offset - 20) + b"0123456789abcdefghij" for offset in range(-3, 4)) * 2,
    }[kind]
    opcode = TEXT if kind == "text" else BINARY
    messages = [content[:size] for size in SIZES]

    async def scene(open_one: Open) -> None:
        peer = open_one(f"{FIELD}{NAME}; server_max_window_bits={window}; client_max_window_bits={window}")
        own = max(9, window)  # zlib compresses with no smaller one
        for message in messages:
            await peer.send([mask_frame(compress(message, window=own), opcode, flags=RSV1)])

        assert peer.received == [(opcode, message) for message in messages]
        receiver = Receiver(window)
        frames = parse_frames(bytes(peer.transport.written))
        assert [(frame.opcode, receiver.read(frame)) for frame in frames] == peer.received

    converse(scene)


@pytest.mark.parametrize("size", [64, 256, 1_024, 4_096])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_compressed_fragments_are_one_message(size: int, level: int) -> None:
    messages = [TEXTS[:length] for length in (0, 100, 5_000, 100_000)]
    ping = mask_frame(b"ping", PING)

    async def scene(open_one: Open) -> None:
        peer = open_one(FIELD + NAME)
        for message in messages:
            payload = compress(message, level=level)
            pieces = [payload[at : at + size] for at in range(0, max(1, len(payload)), size)]
            await peer.send(
                mask_frame(
                    piece,
                    CONTINUATION if index else TEXT,
                    fin=index == len(pieces) - 1,
                    flags=0 if index else RSV1,
                )
                + ping
                for index, piece in enumerate(pieces)
            )

        assert peer.received == [(TEXT, message) for message in messages]
        assert set(peer.heard().pongs) == {b"ping"}

    converse(scene)


def test_many_messages_are_compressed_in_both_directions() -> None:
    messages = [TEXTS[at : at + 1_000] for at in range(0, 100_000, 500)]

    async def scene(open_one: Open) -> None:
        peer = open_one(FIELD + NAME)
        await peer.send([b"".join(mask_frame(compress(message), flags=RSV1) for message in messages)])

        receiver = Receiver(15)
        frames = parse_frames(bytes(peer.transport.written))
        assert [receiver.read(frame) for frame in frames] == messages

    converse(scene)


def test_a_client_may_send_messages_without_compression() -> None:
    async def scene(open_one: Open) -> None:
        peer = open_one(FIELD + NAME)
        plain = mask_frame(b"plain")
        await peer.send([plain + mask_frame(compress(b"compressed"), flags=RSV1) + plain])

        assert peer.received == [(TEXT, b"plain"), (TEXT, b"compressed"), (TEXT, b"plain")]

    converse(scene)


def test_every_form_of_deflate_is_read() -> None:
    """RFC 7692 7.2.3: one block, blocks without compression, with BFINAL, several blocks."""
    forms = ["f248cdc9c90700", "000500faff48656c6c6f00", "f348cdc9c9070000", "f24805000000ffffcac9c90700"]

    async def scene(open_one: Open) -> None:
        peer = open_one(FIELD + NAME)
        await peer.send(mask_frame(bytes.fromhex(form), flags=RSV1) for form in forms)

        assert peer.received == [(TEXT, b"Hello")] * len(forms)

    converse(scene)


# --- Violations


@pytest.mark.parametrize(
    ("sends", "code"),
    [
        pytest.param(mask_frame(b"ping", PING, flags=RSV1), 1002, id="compressed ping"),
        pytest.param(mask_frame(b"pong", PONG, flags=RSV1), 1002, id="compressed pong"),
        pytest.param(mask_frame(close_payload(1000), CLOSE, flags=RSV1), 1002, id="compressed close"),
        pytest.param(
            mask_frame(compress(b"x"), flags=RSV1, fin=False) + mask_frame(b"", CONTINUATION, flags=RSV1),
            1002,
            id="bit in a continuation",
        ),
        pytest.param(mask_frame(compress(b"x"), flags=RSV1 | 0x20), 1002, id="second reserved bit"),
        pytest.param(mask_frame(compress(b"x"), flags=0x10), 1002, id="third reserved bit"),
        pytest.param(mask_frame(b"\xff\xff\xff", flags=RSV1), 1007, id="no deflate"),
        pytest.param(mask_frame(compress(TEXTS)[:-10], flags=RSV1), 1007, id="incomplete"),
        pytest.param(mask_frame(compress(b"\xff"), flags=RSV1), 1007, id="not UTF-8"),
        pytest.param(mask_frame(compress(bytes(50_000_000)), BINARY, flags=RSV1), 1009, id="bomb"),
    ],
)
def test_violations_are_closed(sends: bytes, code: int) -> None:
    async def scene(open_one: Open) -> None:
        peer = open_one(FIELD + NAME)

        await peer.send([mask_frame(b"before") + sends + mask_frame(b"after")])

        assert peer.received == [(TEXT, b"before")]
        assert peer.heard().close == code.to_bytes(2)
        assert peer.transport.is_ended

    converse(scene)
