"""The cost of each step of a message: `python -m benchmarks.steps` prints the table of docs/performance.md.

Every step is timed alone, in this process, with its usual input: a read of 1 or of 16 messages of 100 bytes. The minimum of
several repetitions counts, so that a busy machine has little effect.
"""

import os
import timeit
from collections.abc import Callable, Iterator
from typing import Final

from scalesocket.config.model import App
from scalesocket.rooms.codec import Codec
from scalesocket.wire.batch import Batch, ClientId
from scalesocket.wire.frame_reader import FrameReader
from scalesocket.wire.frames import Event, Opcode, apply_mask
from scalesocket.wire.handshake import accept_key, check_upgrade, parse_request

READS: Final = (1, 16)
"""Messages in one read."""
SIZE: Final = 100
SENDER: Final = ClientId(7)
HEAD: Final = (
    b"GET /bench/r1 HTTP/1.1\r\nHost: 127.0.0.1:9000\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nUser-Agent: bench"
)


def main() -> None:
    """Print the table."""
    print("| step | " + " | ".join(f"{count} per read" for count in READS) + " |")
    print("|---|" + "---|" * len(READS))
    names = [name for name, _ in steps(1)]
    columns = [dict(steps(count)) for count in READS]
    for name in names:
        cells = " | ".join(f"{seconds_of(column[name]) / count * 1e6:.2f}" for column, count in zip(columns, READS, strict=True))
        print(f"| {name} | {cells} |")
    print(f"\nhandshake, request head to response key, without system calls: {seconds_of(handshake) * 1e6:.1f} µs")


def steps(count: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the steps of a message in their order, for a read of `count` messages."""
    plain = Codec(App(name="bench", command=["cat"]), "r1")
    json = Codec(App(name="bench", command=["cat"], routing="json"), "r1")
    plain.begin()
    json.begin()
    texts = [(b'{"m":"%d"' % number).ljust(SIZE - 1) + b"}" for number in range(count)]
    events: list[Event] = [(Opcode.TEXT, text) for text in texts]
    wire = b"".join(masked(text) for text in texts)
    reader = FrameReader(max_message=1 << 20, binary_as_text=True)
    chunk, _ = plain.encode(SENDER, events)
    addressed = b"".join(b'{"_to":[7],"m":1}'.ljust(SIZE) + b"\n" for _ in range(count))
    yield "decode frames: parse, unmask, check UTF-8", lambda: reader.feed(wire)
    yield "encode for the backend, plain", lambda: plain.encode(SENDER, events)
    yield "encode for the backend, json (parse, set `_from`)", lambda: json.encode(SENDER, events)
    yield "split and route, plain", lambda: list(plain.route(chunk))
    yield "split and route, json without routing keys", lambda: list(json.route(chunk))
    yield "split and route, json with `_to` in each", lambda: list(json.route(addressed))
    yield "encode frames, once for all clients", lambda: Batch(texts).frames
    yield "compress, once for all clients", lambda: Batch(texts).deflated_frames()


def handshake() -> None:
    """Parse a request head, check it and compute the key of the response."""
    request = parse_request(HEAD, peer=("127.0.0.1", 5000), local=("127.0.0.1", 9000), is_secure=False)
    accept_key(check_upgrade(request))


def masked(payload: bytes) -> bytes:
    """Return a client's frame."""
    mask = os.urandom(4)
    return bytes((0x81, 0x80 | len(payload))) + mask + apply_mask(payload, mask)


def seconds_of(step: Callable[[], object]) -> float:
    """Return the minimum time of one call."""
    number = 2000
    return min(timeit.repeat(step, number=number, repeat=15)) / number


if __name__ == "__main__":
    main()
