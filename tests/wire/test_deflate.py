"""permessage-deflate (RFC 7692)."""

import zlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.wire.deflate import MAX_WINDOW, RESPONSE, Agreement, answer_offers, deflate, inflate


@pytest.mark.parametrize(
    "header",
    [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=10",
        'permessage-deflate; client_max_window_bits="10"',
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "x-webkit-deflate-frame, permessage-deflate",
        "permessage-deflate; server_max_window_bits=7, permessage-deflate",
        "Permessage-Deflate ; Client_Max_Window_Bits",
    ],
)
def test_acceptable_offers_are_accepted(header: str) -> None:
    assert answer_offers(header) == Agreement(RESPONSE, MAX_WINDOW)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "permessage-bzip2",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=010",
        "permessage-deflate; client_max_window_bits=" + "1" * 5_000,
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; unknown",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
        "permessage-deflate; =",
    ],
)
def test_other_offers_are_declined(header: str) -> None:
    assert not answer_offers(header)


@pytest.mark.parametrize("window", range(8, 16))
def test_an_offered_window_is_agreed_on(window: int) -> None:
    agreed = answer_offers(f"permessage-deflate; server_max_window_bits={window}; client_max_window_bits")

    assert agreed == Agreement(f"{RESPONSE}; server_max_window_bits={window}", window)


@pytest.mark.parametrize("window", range(8, 16))
def test_a_message_is_readable_with_the_agreed_window(window: int) -> None:
    # Repetitions at every distance around the size of the window.
    random = Random(window)
    size = 1 << window
    repeats = [random.randbytes(30)] * 2 + [random.randbytes(near) for near in range(size - 40, size + 40, 7)]
    message = b"".join(block + bytes(gap) for gap, block in enumerate([*repeats, *repeats]))
    peer = zlib.decompressobj(-window)

    assert peer.decompress(deflate(message, window) + b"\x00\x00\xff\xff") == message


def test_a_larger_window_compresses_better() -> None:
    block = Random(1).randbytes(10_000)

    assert len(deflate(block * 2, 15)) < 11_000 < len(deflate(block * 2, 9))


@pytest.mark.parametrize("missing", [1, 5, 20])
def test_an_incomplete_message_is_an_error(missing: int) -> None:
    whole = deflate(b"".join(b"%d," % number for number in range(100)))

    with pytest.raises(ValueError, match=r"missing|invalid|incomplete"):
        inflate(whole[:-missing], 10_000)


@given(st.binary(max_size=5000))
def test_inflate_reverses_deflate(payload: bytes) -> None:
    assert inflate(deflate(payload), len(payload)) == payload


@given(st.lists(st.binary(max_size=500), max_size=5))
def test_a_peer_that_keeps_its_window_can_read_every_message(payloads: list[bytes]) -> None:
    peer = zlib.decompressobj(-15)

    assert [peer.decompress(deflate(payload) + b"\x00\x00\xff\xff") for payload in payloads] == payloads


def test_the_example_of_the_rfc_is_inflated() -> None:
    assert inflate(bytes.fromhex("f248cdc9c90700"), 5) == b"Hello"  # 7.2.3.1, one block
    assert inflate(bytes.fromhex("000500faff48656c6c6f00"), 5) == b"Hello"  # 7.2.3.3, a block without compression
    assert inflate(bytes.fromhex("f348cdc9c9070000"), 5) == b"Hello"  # 7.2.3.4, a block with BFINAL
    assert inflate(bytes.fromhex("f24805000000ffffcac9c90700"), 5) == b"Hello"  # 7.2.3.5, two blocks


def test_no_more_than_the_limit_is_inflated() -> None:
    payload = deflate(b"x" * 100)

    assert inflate(payload, 100) == b"x" * 100
    assert inflate(payload, 99) is None


def test_damaged_data_is_an_error() -> None:
    with pytest.raises(ValueError, match="invalid"):
        inflate(b"\xff\xff\xff\xff", 100)
