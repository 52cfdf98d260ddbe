"""Floods of HTTP/2 frames on one connection, and how much they delay another client: `python -m tests.attacks.http2_floods`.

For each flood a server is started, one client sends 1 MiB of frames, and another measures the round trips of an echo. The
table shows the longest round trip, how long the flood took, and how the server ended the connection.
"""

import argparse
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from hpack import Encoder

from tests.examples.listening import run_until_listening
from tests.raw import mask_frame, upgrade

MiB: Final = 1 << 20
PATIENCE: Final = 20.0
"""Seconds a flood may take."""
SITE: Final = (
    '[server]\nbind = "127.0.0.1:0"\ncontrol = "off"\nhttp2_websockets = true\n[apps.echo]\ncommand = ["cat"]\nstatic = "page"\n'
)

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ALTSVC: Final = 10
PRIORITY_UPDATE: Final = 16
END_STREAM, END_HEADERS, PADDED, PRIORITIZED, ACK = 1, 4, 8, 32, 1
ERRORS: Final = (
    *(
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
    ),
    *("REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY"),
)
MARK: Final = b"the mark"


def frame(kind: int, payload: bytes = b"", *, stream: int = 0, flags: int = 0) -> bytes:
    """One frame (RFC 9113 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "big")


def fields(method: str = "GET", path: str = "/health", *more: tuple[str, str]) -> bytes:
    """Encode a header block that does not use the dynamic table."""
    pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost"), *more]
    return bytes(Encoder().encode([(name, value, True) for name, value in pseudo], huffman=False))


def request(stream: int, block: bytes, *, flags: int = END_STREAM | END_HEADERS) -> bytes:
    return frame(HEADERS, block, stream=stream, flags=flags)


def repeat(*frames: bytes) -> Iterator[bytes]:
    while True:
        yield from frames


def after(first: bytes, *frames: bytes) -> Iterator[bytes]:
    yield first
    yield from repeat(*frames)


GET: Final = fields()
POST: Final = fields("POST", "/health")
BIG_GET: Final = fields("GET", "/echo/big.bin")
SOCKET: Final = fields("CONNECT", "/echo/flood", (":protocol", "websocket"), ("sec-websocket-version", "13"))

ANSWERED: Final = b""
"""In a flood: wait for a response to a request."""
WINDOW: Final = (1 << 16) - 1
"""Bytes of DATA in flight, if a flood respects the window."""


def opened(block: bytes = POST) -> bytes:
    """A request that is not ended yet."""
    return request(1, block, flags=END_HEADERS)


def in_websocket(*pieces: bytes) -> Iterator[bytes]:
    """A websocket, and then its data, a frame for each piece."""
    yield opened(SOCKET)
    yield ANSWERED
    yield from repeat(*(frame(DATA, piece, stream=1) for piece in pieces))


def priority_again() -> Iterator[bytes]:
    """Each of 900 streams depends on the one before it, five times and more."""
    while True:
        for stream in range(1, 900):
            yield frame(PRIORITY, number(0) + b"\x0f", stream=stream * 2 + 1)


def priority_chain() -> Iterator[bytes]:
    """A tree of the greatest possible depth."""
    while True:
        for stream in range(2, 900):
            yield frame(PRIORITY, number(stream * 2 - 1 | 1 << 31) + b"\x0f", stream=stream * 2 + 1)


def requests(block: bytes = GET, **more: int) -> Iterator[bytes]:
    return (request(stream, block, **more) for stream in count(1, 2))


def rapid_reset() -> Iterator[bytes]:
    for stream in count(1, 2):
        yield request(stream, GET)
        yield frame(RST_STREAM, number(8), stream=stream)


def provoked_reset() -> Iterator[bytes]:
    """Requests that the server resets because their window overflows."""
    for stream in count(1, 2):
        yield request(stream, GET)
        yield frame(WINDOW_UPDATE, number((1 << 31) - 1), stream=stream)


def settings_unknown() -> Iterator[bytes]:
    for first in count(0, 2000):
        yield frame(SETTINGS, b"".join(number(one % 65_000 + 100, 2) + number(one) for one in range(first, first + 2000)))


def settings_window() -> Iterator[bytes]:
    yield b"".join(islice(requests(POST, flags=END_HEADERS), 99))
    for size in count(1000):
        yield frame(SETTINGS, number(4, 2) + number(size))


def dribble() -> Iterator[bytes]:
    """A download with a window of one byte at a time."""
    yield frame(SETTINGS, number(4, 2) + number(0))
    yield request(1, BIG_GET)
    yield from repeat(frame(WINDOW_UPDATE, number(1), stream=1))


def huffman_block() -> Iterator[bytes]:
    """A header block of 1 MiB, Huffman-coded: `aaaaaaaa` is five bytes."""
    size = MiB - 8192 - (MiB - 8192) % 5
    long = size - 127
    length = b"\xff" + bytes((long & 127 | 128, long >> 7 & 127 | 128, long >> 14))  # RFC 7541 5.1
    block = GET + b"\0\x01x" + length + b"\x18\xc6\x31\x8c\x63" * (size // 5)
    yield request(1, block[:16_384], flags=0)
    rest = [block[begin : begin + 16_384] for begin in range(16_384, len(block), 16_384)]
    for piece in rest[:-1]:
        yield frame(CONTINUATION, piece, stream=1)
    yield frame(CONTINUATION, rest[-1], stream=1, flags=END_HEADERS)


FLOODS: Final[Mapping[str, Callable[[], Iterator[bytes]]]] = {
    "DATA, empty": lambda: after(opened(), frame(DATA, stream=1)),
    "DATA, padding alone": lambda: after(opened(), frame(DATA, b"\0", stream=1, flags=PADDED)),
    "DATA, long padding": lambda: after(opened(), frame(DATA, b"\xff" + bytes(255), stream=1, flags=PADDED)),
    "DATA, small": lambda: after(opened(), frame(DATA, b"x", stream=1)),
    "DATA, large": lambda: after(opened(), frame(DATA, bytes(16_384), stream=1)),
    "DATA, small, to a websocket": lambda: in_websocket(*(bytes((byte,)) for byte in mask_frame(b"x"))),
    "DATA, messages to a websocket": lambda: in_websocket(mask_frame(b"x") * 1000),
    "DATA, no such stream": lambda: repeat(frame(DATA, stream=7)),
    "HEADERS": requests,
    "HEADERS of downloads": lambda: requests(BIG_GET),
    "HEADERS with priority": lambda: requests(number(0) + b"\xff" + GET, flags=END_STREAM | END_HEADERS | PRIORITIZED),
    "HEADERS without an end": lambda: requests(POST, flags=END_HEADERS),
    "HEADERS of websockets": lambda: requests(SOCKET, flags=END_HEADERS),
    "HEADERS, 1 MiB in one block": huffman_block,
    "PRIORITY": priority_again,
    "PRIORITY, a chain": priority_chain,
    "RST_STREAM, rapid reset": rapid_reset,
    "RST_STREAM, provoked": provoked_reset,
    "RST_STREAM, again": lambda: after(request(1, GET), frame(RST_STREAM, number(8), stream=1)),
    "SETTINGS, empty": lambda: repeat(frame(SETTINGS)),
    "SETTINGS, unknown": settings_unknown,
    "SETTINGS, window sizes": settings_window,
    "SETTINGS, acknowledged": lambda: repeat(frame(SETTINGS, flags=ACK)),
    "PUSH_PROMISE": lambda: after(opened(), frame(PUSH_PROMISE, number(2) + GET, stream=1, flags=END_HEADERS)),
    "PING": lambda: repeat(frame(PING, bytes(8))),
    "PING, acknowledged": lambda: repeat(frame(PING, bytes(8), flags=ACK)),
    "GOAWAY": lambda: repeat(frame(GOAWAY, bytes(8))),
    "WINDOW_UPDATE": lambda: repeat(frame(WINDOW_UPDATE, number(1))),
    "WINDOW_UPDATE, of a stream": lambda: after(opened(), frame(WINDOW_UPDATE, number(1), stream=1)),
    "WINDOW_UPDATE, byte by byte": dribble,
    "CONTINUATION": lambda: after(request(1, GET, flags=0), frame(CONTINUATION, stream=1)),
    "CONTINUATION, of nothing": lambda: repeat(frame(CONTINUATION, GET, stream=1, flags=END_HEADERS)),
    "unknown type": lambda: repeat(frame(0xBB)),
    "ALTSVC": lambda: after(opened(), frame(ALTSVC, number(0, 2) + b"h2=x", stream=1)),
    "PRIORITY_UPDATE": lambda: repeat(frame(PRIORITY_UPDATE, number(1) + b"u=1")),
    "a frame of 16 MiB": lambda: after(b"\xff\xff\xff" + bytes(6), bytes(1 << 16)),
}


POLITE: Final = {name for name in FLOODS if "websocket" in name}
"""Floods that respect the window of their stream: otherwise the server would end them early."""


def make_flood(name: str, size: int = MiB) -> list[bytes]:
    """Make the frames of a flood, `size` bytes or a little more, in pieces for one write each."""
    pieces, made = [b""], 0
    for piece in FLOODS[name]():
        if piece == ANSWERED:
            pieces += [ANSWERED, b""]
        elif len(pieces[-1]) + len(piece) > WINDOW // 2:
            pieces.append(piece)
        else:
            pieces[-1] += piece
        made += len(piece)
        if made > size:
            break
    return pieces


def length_of_data(piece: bytes) -> int:
    """Bytes of DATA in these frames."""
    total = at = 0
    while at < len(piece):
        size = int.from_bytes(piece[at : at + 3], "big")
        total += size if piece[at + 3] == DATA else 0
        at += 9 + size
    return total


class Attacker:
    """One HTTP/2 connection that floods, and records how the server ended it."""

    def __init__(self, port: int, flood: list[bytes], *, is_polite: bool = False) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._flood = flood
        self._is_polite = is_polite
        self._answered = threading.Event()
        self._window = WINDOW
        self._has_window = threading.Condition()
        self.end = ""
        """How the server ended the connection; empty while it is open."""
        self._is_over = threading.Event()
        self._is_sent = False
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._send, self._read)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the server has read the whole flood, or ended the connection."""
        return self._is_over.is_set()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._sock.close()

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.sendall(PREFACE + frame(SETTINGS))
            for piece in self._flood:
                if piece == ANSWERED:
                    self._answered.wait(PATIENCE)
                    continue
                if self._is_polite:
                    self._take_window(length_of_data(piece))
                self._sock.sendall(piece)
            self._sock.sendall(frame(PING, MARK))
            self._is_sent = True
            self._leave_if_cut()

    def _leave_if_cut(self) -> None:
        """End this side when everything was sent and GOAWAY was received: the server would wait a second for that."""
        if self.end and self._is_sent:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    def _take_window(self, size: int) -> None:
        with self._has_window:
            self._has_window.wait_for(lambda: self._window >= size or self.is_over, PATIENCE)
            self._window -= size

    def _read(self) -> None:
        held = bytearray()
        try:
            while chunk := self._sock.recv(1 << 16):
                held += chunk
                while len(held) >= 9 and len(held) >= (size := 9 + int.from_bytes(held[:3], "big")):
                    self._take(held[3], int.from_bytes(held[5:9], "big"), bytes(held[9:size]))
                    del held[:size]
            self.end = self.end or "closed"
        except OSError as error:
            self.end = self.end or f"cut ({type(error).__name__})"
        self._is_over.set()

    def _take(self, kind: int, stream: int, payload: bytes) -> None:
        if kind == GOAWAY:
            self.end = ERRORS[int.from_bytes(payload[4:8], "big")]
            self._leave_if_cut()
        elif kind == PING and payload == MARK:
            self._is_over.set()
        elif kind == HEADERS:
            self._answered.set()
        elif kind == WINDOW_UPDATE and stream:
            with self._has_window:
                self._window += int.from_bytes(payload, "big")
                self._has_window.notify()


class Echo:
    """A websocket to a room of its own, on the express lane."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.sendall(upgrade("/echo/victim"))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self._sock.recv(1)
        assert b" 101 " in answer, answer
        self.round_trip()

    def round_trip(self) -> float:
        """Measure the echo of one message, in seconds."""
        begin = time.perf_counter()
        self._sock.sendall(mask_frame(b"hello"))
        answer = b""
        while len(answer) < 7:
            answer += self._sock.recv(7 - len(answer))
        return time.perf_counter() - begin

    def close(self) -> None:
        self._sock.close()


@dataclass
class Figures:
    """The effect of a flood on another client."""

    end: str
    seconds: float = 0.0
    trips: list[float] = field(default_factory=list)


def attack(port: int, name: str, size: int = MiB) -> Figures:
    """Flood the server, and measure another client's round trips until the flood is over, in seconds."""
    flood = make_flood(name, size)
    echo, attacker = Echo(port), Attacker(port, flood, is_polite=name in POLITE)
    figures = Figures("")
    begin = time.perf_counter()
    attacker.start()
    while not attacker.is_over and time.perf_counter() - begin < PATIENCE:
        figures.trips.append(echo.round_trip())
        time.sleep(0.0005)
    figures.seconds = time.perf_counter() - begin
    figures.trips += [echo.round_trip() for _ in range(10)]
    figures.end = attacker.end or "-"
    attacker.stop()
    echo.close()
    return figures


@contextlib.contextmanager
def open_site(settings: str = "") -> Iterator[int]:
    """Serve an echo and a large file in another process; yield its port."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "page").mkdir()
        (Path(folder) / "page/big.bin").write_bytes(bytes(MiB))
        site = Path(folder) / "site.toml"
        site.write_text(SITE.replace("[apps", f"{settings}\n[apps", 1))
        with run_until_listening(sys.executable, "-m", "scalesocket", "serve", str(site)) as address:
            yield int(address.rpartition(":")[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(FLOODS), help="floods to send (all)")
    parser.add_argument("--size", type=int, default=MiB, help="bytes of a flood")
    parser.add_argument("--set", action="append", default=[], help="a line for [server] of the site file")
    options = parser.parse_args()
    title = f"flood of {options.size} bytes"
    print(f"{title:<38} {'longest trip':>12} {'median':>9} {'took':>8}  ended by the server with")
    for name in options.names:
        with open_site("\n".join(options.set)) as port:
            figures = attack(port, name, options.size)
        longest, median = max(figures.trips), sorted(figures.trips)[len(figures.trips) // 2]
        print(f"{name:<38} {longest * 1e3:9.1f} ms {median * 1e3:6.1f} ms {figures.seconds:6.2f} s  {figures.end}", flush=True)


if __name__ == "__main__":
    main()
