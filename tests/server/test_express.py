"""The express lane on the wire: the bytes it sends and accepts (RFC 6455, RFC 7692)."""

import asyncio
import contextlib
import time
import zlib
from typing import Any

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from scalesocket.server import closing
from scalesocket.wire.deflate import deflate, inflate
from tests.conftest import Serve
from tests.playing import Playground, program
from tests.raw import BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, TEXT, RawClient, close_payload, mask_frame, upgrade

CAT: dict[str, Any] = {"command": ["cat"]}


async def echo_of(serve: Serve, **settings: Any) -> tuple[Playground, RawClient]:
    """A room on `cat` with one client."""
    site = await serve(echo={**CAT, **settings})
    return site, await site.join_raw("/echo/one")


async def wait_room_empty(site: Playground) -> None:
    await site.until(lambda: site.gateway.connections == 0)


# --- Messages


async def test_a_message_is_sent_as_one_unmasked_final_frame(serve_express: Serve) -> None:
    _, ann = await echo_of(serve_express)

    for size in (0, 1, 125, 126, 65_535, 65_536):
        ann.say("x" * size)
        assert await ann.read_frame() == (FIN | TEXT, b"x" * size)


async def test_control_frames_between_fragments_do_not_split_a_message(serve_express: Serve) -> None:
    _, ann = await echo_of(serve_express)

    ann.send(mask_frame(b"one ", TEXT, fin=False))
    ann.send(mask_frame(b"still there?", PING))
    ann.send(mask_frame(b"unasked", PONG))
    ann.send(mask_frame(b"message", CONTINUATION))

    assert await ann.read_frame() == (FIN | PONG, b"still there?")
    await ann.hear("one message")


async def test_bytes_may_come_one_at_a_time(serve_express: Serve) -> None:
    _, ann = await echo_of(serve_express)

    for byte in mask_frame(b"slowly", TEXT, fin=False) + mask_frame(b"", PING) + mask_frame(b" but surely", CONTINUATION):
        ann.send(bytes((byte,)))
        await ann.writer.drain()
        await asyncio.sleep(0.001)

    assert (await ann.read_frame()).opcode == PONG
    await ann.hear("slowly but surely")


async def test_every_ping_is_answered_in_order_with_its_own_payload(serve_express: Serve) -> None:
    _, ann = await echo_of(serve_express)

    ann.send(b"".join(mask_frame(str(number).encode(), PING) for number in range(100)))

    assert [await ann.read_frame() for _ in range(100)] == [(FIN | PONG, str(number).encode()) for number in range(100)]


async def test_pings_and_pongs_are_not_messages(serve_express: Serve) -> None:
    site, ann = await echo_of(serve_express)

    ann.send(mask_frame(b"ping", PING) + mask_frame(b"pong", PONG))
    ann.say("message")

    assert (await ann.read_frame()).opcode == PONG
    await ann.hear("message")
    assert site.room("echo", "one").counts.messages_in == 1


@pytest.mark.parametrize(
    "start",
    [{"command": ["cat"]}, {"command": ["cat"], "start_delay": 0.3}, {"command": ["sh", "-c", "sleep 0.3; exec cat"]}],
    ids=["ready", "started late", "reading late"],
)
async def test_many_messages_in_one_write_are_delivered_in_order(serve_express: Serve, start: dict[str, Any]) -> None:
    site = await serve_express(echo={**start, "rate": {"messages": 1_000_000}})
    ann = await site.join_raw("/echo/one")
    flood = [b"%d %s" % (number, b"x" * 100) for number in range(20_000)]  # more than a room buffers for its backend

    ann.send(b"".join(map(mask_frame, flood)) + mask_frame(b"", PING) + mask_frame(b"over"))

    heard = [await ann.read_frame() for _ in range(len(flood) + 2)]
    assert [payload for opcode, payload in heard if opcode == FIN | TEXT] == [*flood, b"over"]


async def test_a_close_frame_after_many_messages_is_answered(serve_express: Serve) -> None:
    site, ann = await echo_of(serve_express)
    bob = await site.join_raw("/echo/one")

    ann.send(b"".join(mask_frame(b"%d" % number) for number in range(20_000)) + mask_frame(close_payload(1000), CLOSE))

    for number in range(20_000):
        assert (await bob.read_frame()).payload == b"%d" % number
    await site.until(lambda: site.gateway.connections == 1)


async def test_a_close_frame_after_held_messages_releases_the_other_clients(serve_express: Serve) -> None:
    site = await serve_express(echo={**CAT, "start_delay": 0.3})
    ann, bob = await site.join_raw("/echo/one"), await site.join_raw("/echo/one")
    flood = [b"%d %s" % (number, b"x" * 100) for number in range(6_000)]

    ann.send(b"".join(map(mask_frame, flood)) + mask_frame(close_payload(1000), CLOSE))
    assert [(await bob.read_frame()).payload for _ in flood] == flood
    bob.say("my turn")

    await bob.hear("my turn")
    await site.until(lambda: site.gateway.connections == 1)


async def test_a_client_that_disconnects_after_many_messages_leaves_its_room(serve_express: Serve) -> None:
    site, ann = await echo_of(serve_express)

    ann.send(b"".join(mask_frame(b"%d" % number) for number in range(20_000)))
    ann.cut()

    await site.wait_no_rooms()


async def test_utf8_may_be_cut_anywhere_by_fragments(serve_express: Serve) -> None:
    _, ann = await echo_of(serve_express)
    text = "日本🎲".encode()

    for at in range(len(text) + 1):
        ann.send(mask_frame(text[:at], TEXT, fin=False) + mask_frame(text[at:], CONTINUATION))
        assert await ann.read_frame() == (FIN | TEXT, text)


# --- Closing


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
async def test_the_clients_close_code_is_echoed(serve_express: Serve, code: int) -> None:
    site, ann = await echo_of(serve_express)

    ann.send(mask_frame(close_payload(code, "my reasons"), CLOSE))

    assert await ann.read_close() == (code, "")
    assert await ann.read_end() == b""
    await wait_room_empty(site)


async def test_a_close_without_a_code_is_answered_without_one(serve_express: Serve) -> None:
    _, ann = await echo_of(serve_express)

    ann.send(mask_frame(b"", CLOSE))

    assert await ann.read_close() == (1005, "")
    assert await ann.read_end() == b""


async def test_a_message_in_the_same_write_as_a_close_frame_is_delivered(serve_express: Serve) -> None:
    site, ann = await echo_of(serve_express)
    bob = await site.join("/echo/one")

    ann.send(mask_frame(b"last words") + mask_frame(close_payload(1000), CLOSE) + mask_frame(b"from beyond"))

    await bob.hear("last words")
    await bob.hear_nothing()


async def test_a_client_that_disconnects_leaves_its_room(serve_express: Serve) -> None:
    site, ann = await echo_of(serve_express)

    ann.cut()

    await site.wait_no_rooms()


async def test_a_client_that_ends_its_side_leaves_its_room(serve_express: Serve) -> None:
    site, ann = await echo_of(serve_express)

    ann.writer.write_eof()

    assert await ann.read_end() == b""
    await site.wait_no_rooms()


async def test_a_close_by_the_server_has_code_and_reason_and_waits_for_the_answer(serve_express: Serve) -> None:
    site = await serve_express(echo={"command": program("crash", 3)})
    ann = await site.join_raw("/echo/one")
    await ann.hear("so far so good")

    assert await ann.read_close() == (1011, "the program ended with exit status 3")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ann.reader.read(1), 0.3)
    ann.send(mask_frame(close_payload(1011), CLOSE))

    assert await ann.read_end() == b""


async def test_a_close_by_the_server_that_is_not_answered_ends_the_connection(
    serve_express: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "CLOSE_TIMEOUT", 0.2)
    site = await serve_express(echo={"command": program("crash", 3)})
    began = time.monotonic()
    ann = await site.join_raw("/echo/one")
    await ann.hear("so far so good")
    await ann.read_close()

    with contextlib.suppress(ConnectionResetError):
        assert await ann.read_end() == b""

    assert time.monotonic() - began >= 0.2


async def test_a_long_reason_is_cut_to_fit_its_frame(serve_express: Serve) -> None:
    site = await serve_express(game={"command": ["/no/" + "ä" * 100]})

    ann = await site.join_raw("/game/one")

    _, reason = await ann.read_close()
    assert len(reason.encode()) <= 123
    assert reason.startswith("cannot start '…ä")
    assert reason.endswith(": no such file or directory")


# --- Protocol errors, which end the connection at once with a close frame


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param(b"\x81\x02hi", 1002, id="unmasked"),
        pytest.param(mask_frame(b"x", 3), 1002, id="reserved opcode"),
        pytest.param(mask_frame(b"x", 11), 1002, id="reserved control opcode"),
        pytest.param(mask_frame(b"x", flags=RSV1), 1002, id="compressed without deflate"),
        pytest.param(mask_frame(b"x", flags=0x20), 1002, id="reserved bit"),
        pytest.param(mask_frame(b"x" * 126, PING), 1002, id="long ping"),
        pytest.param(mask_frame(b"x", PING, fin=False), 1002, id="fragmented ping"),
        pytest.param(mask_frame(b"x", CONTINUATION), 1002, id="nothing to continue"),
        pytest.param(mask_frame(b"x", fin=False) + mask_frame(b"x"), 1002, id="message within a message"),
        pytest.param(mask_frame(b"x", CLOSE), 1002, id="close of one byte"),
        pytest.param(mask_frame(close_payload(1005), CLOSE), 1002, id="close code 1005"),
        pytest.param(mask_frame(b"\xff"), 1007, id="not UTF-8"),
        pytest.param(mask_frame(b"ok", fin=False) + mask_frame(b"\xff", CONTINUATION, fin=False), 1007, id="fragment not UTF-8"),
        pytest.param(mask_frame(b"\x03\xe8\xff", CLOSE), 1007, id="reason not UTF-8"),
        pytest.param(mask_frame(b"\xff", BINARY), 1007, id="binary that is no text"),
        pytest.param(mask_frame(b"x" * 1001), 1009, id="too long"),
        pytest.param(b"\x81\xff" + (1 << 50).to_bytes(8, "big"), 1009, id="much too long, header only"),
        pytest.param(mask_frame(b"x" * 600, fin=False) + mask_frame(b"x" * 600, CONTINUATION), 1009, id="fragments too long"),
    ],
)
async def test_a_protocol_error_ends_the_connection_at_once(serve_express: Serve, frame: bytes, code: int) -> None:
    site, ann = await echo_of(serve_express, max_message=1000)
    bob = await site.join("/echo/one")
    began = time.monotonic()

    ann.send(mask_frame(b"before") + frame + mask_frame(b"after"))

    assert await ann.read_close_after_echoes() == code
    assert await ann.read_end() == b""
    assert time.monotonic() - began < 1.5
    await bob.hear("before")
    await bob.hear_nothing(within=0.05)
    assert site.gateway.connections == 1


async def test_the_close_frame_is_received_although_the_client_goes_on_sending(serve_express: Serve) -> None:
    _, ann = await echo_of(serve_express, max_message=1000)

    for _ in range(200):
        ann.send(mask_frame(b"x" * 10_000))

    assert (await ann.read_close())[0] == 1009


async def test_a_message_of_exactly_max_message_is_accepted(serve_express: Serve) -> None:
    _, ann = await echo_of(serve_express, max_message=1000)

    ann.say("x" * 1000)
    ann.send(mask_frame(b"x" * 500, fin=False) + mask_frame(b"x" * 500, CONTINUATION))

    await ann.hear("x" * 1000, "x" * 1000)


# --- Binary


async def test_a_binary_message_to_a_text_app_is_taken_as_text(serve_express: Serve) -> None:
    _, ann = await echo_of(serve_express)

    ann.send(mask_frame("häh".encode(), BINARY))

    await ann.hear("häh")


async def test_a_binary_app_accepts_any_bytes(serve_express: Serve) -> None:
    _, ann = await echo_of(serve_express, binary=True)

    ann.send(mask_frame(b"\xff\x00\xfe", BINARY))

    assert await ann.read_frame() == (FIN | BINARY, b"\xff\x00\xfe")


# --- permessage-deflate

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


async def deflated(site: Playground, offer: str = OFFER) -> RawClient:
    ann = await RawClient.connect(site.port)
    site.raw_clients.append(ann)
    ann.send(upgrade("/echo/one", offer))
    head = await ann.read_head()
    assert "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover" in head
    return ann


async def test_compression_is_agreed_on_only_if_the_app_has_it_on(serve_express: Serve) -> None:
    site = await serve_express(echo=CAT)
    ann = await RawClient.connect(site.port)

    ann.send(upgrade("/echo/one", OFFER))

    assert "Extensions" not in await ann.read_head()
    ann.cut()


async def test_an_offer_that_cannot_be_met_is_declined(serve_express: Serve) -> None:
    site = await serve_express(echo={**CAT, "compression": True})
    ann = await RawClient.connect(site.port)

    ann.send(upgrade("/echo/one", "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=7"))

    assert "Extensions" not in await ann.read_head()
    ann.say("plain then")
    await ann.hear("plain then")
    ann.cut()


async def test_a_client_receives_messages_with_the_window_it_asked_for(serve_express: Serve) -> None:
    site = await serve_express(echo={**CAT, "compression": True})
    ann = await deflated(site, "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9")
    bob = await deflated(site)
    message = "".join(map(str, range(1000, 2000))) * 2  # repeats itself after 4,000 bytes

    ann.say(message)

    small, large = (await ann.read_frame()).payload, (await bob.read_frame()).payload
    assert zlib.decompressobj(-9).decompress(small + b"\x00\x00\xff\xff").decode() == message
    assert inflate(large, 10_000) == message.encode()
    assert len(large) < len(small)


async def test_messages_are_deflated_both_ways(serve_express: Serve) -> None:
    site = await serve_express(echo={**CAT, "compression": True})
    ann = await deflated(site)

    ann.send(mask_frame(deflate(b"hello " * 100), flags=RSV1))

    frame = await ann.read_frame()
    assert frame.first == FIN | RSV1 | TEXT
    assert len(frame.payload) < 50
    assert inflate(frame.payload, 1000) == b"hello " * 100


async def test_deflated_fragments_and_plain_messages_are_accepted_too(serve_express: Serve) -> None:
    site = await serve_express(echo={**CAT, "compression": True})
    ann = await deflated(site)
    payload = deflate(b"in two parts")

    ann.send(mask_frame(payload[:4], flags=RSV1, fin=False) + mask_frame(payload[4:], CONTINUATION))
    ann.send(mask_frame(b"plain"))

    assert inflate((await ann.read_frame()).payload, 100) == b"in two parts"
    assert inflate((await ann.read_frame()).payload, 100) == b"plain"


async def test_clients_with_and_without_compression_share_a_room(serve_express: Serve) -> None:
    site = await serve_express(echo={**CAT, "compression": True})
    ann = await site.join("/echo/one", extensions=[ClientPerMessageDeflateFactory()])
    bob = await site.join("/echo/one", extensions=[ClientPerMessageDeflateFactory(client_max_window_bits=9)])
    eve = await site.join("/echo/one")
    assert [extension.name for extension in ann.connection.protocol.extensions] == ["permessage-deflate"]

    for message in ("short", "long " * 10_000, "日本語" * 100, ""):
        await bob.say(message)
        for player in (ann, bob, eve):
            await player.hear(message)


async def test_a_decompression_bomb_is_closed_with_1009(serve_express: Serve) -> None:
    site = await serve_express(echo={**CAT, "compression": True, "max_message": 100_000})
    ann = await deflated(site)

    ann.send(mask_frame(deflate(b"\0" * 50_000_000), flags=RSV1))

    assert (await ann.read_close())[0] == 1009


async def test_damaged_compressed_data_is_closed_with_1007(serve_express: Serve) -> None:
    site = await serve_express(echo={**CAT, "compression": True})
    ann = await deflated(site)

    ann.send(mask_frame(b"\xff\xff\xff\xff", flags=RSV1))

    assert (await ann.read_close())[0] == 1007


async def test_history_is_replayed_deflated(serve_express: Serve) -> None:
    site = await serve_express(echo={**CAT, "compression": True, "history": {"size": 10}})
    eve = await site.join("/echo/one")
    for number in range(20):
        await eve.say(f"{number}")
        await eve.listen()

    bob = await site.join("/echo/one", extensions=[ClientPerMessageDeflateFactory()])

    await bob.hear(*map(str, range(10, 20)))
