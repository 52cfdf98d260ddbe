"""What a server must do with the frames of a client: RFC 6455 5 to 8, as tables.

A room's program echoes each message as it is. A case is the bytes of a client after its handshake, and what follows from them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

from tests.conformance.utf8 import INVALID, VALID
from tests.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload, mask_frame

Message = tuple[int, bytes]
"""Opcode and payload."""

MAX_MESSAGE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The bytes of a client, and what must follow."""

    name: str
    sends: bytes
    messages: tuple[Message, ...] = ()
    """What reaches the program. Its echoes reach the client, unless the connection is closed before."""
    pongs: tuple[bytes, ...] = ()
    close: bytes | None = None
    """The payload of the server's close frame, without its reason; None if the websocket stays open."""
    is_violation: bool = False
    """Whether the close answers a violation of the protocol, after which the server ends the connection."""


def fragment(payload: bytes, sizes: Iterable[int], opcode: int = TEXT, between: bytes = b"") -> bytes:
    """A message in fragments of these sizes and one with the rest, and other frames after each but the last."""
    pieces = []
    at = 0
    for size in sizes:
        pieces.append(payload[at : at + size])
        at += size
    pieces.append(payload[at:])
    made = [
        mask_frame(piece, opcode if index == 0 else CONTINUATION, fin=index == len(pieces) - 1)
        for index, piece in enumerate(pieces)
    ]
    return between.join(made)


def echoed(name: str, sends: bytes, *messages: Message, pongs: Iterable[bytes] = ()) -> Case:
    """The websocket stays open."""
    return Case(name=name, sends=sends, messages=messages, pongs=tuple(pongs))


def violation(name: str, sends: bytes, *messages: Message, code: int = 1002, pongs: Iterable[bytes] = ()) -> Case:
    """The server closes with `code`; what was complete before is delivered, what comes after is not."""
    after = mask_frame(b"after") + mask_frame(b"after", PING)
    return Case(
        name=name,
        sends=sends + after,
        messages=messages,
        pongs=tuple(pongs),
        close=code.to_bytes(2, "big"),
        is_violation=True,
    )


HELLO: Final = (TEXT, b"hello")
HI: Final = mask_frame(b"hello")


def framing() -> Iterator[Case]:
    """All forms of the length (RFC 6455 5.2), for texts and for bytes."""
    for size in (0, 1, 124, 125, 126, 127, 128, 255, 256, 32_767, 32_768, 65_535, 65_536, 65_537):
        yield echoed(f"text of {size} bytes", mask_frame(b"*" * size), (TEXT, b"*" * size))
        yield echoed(f"binary of {size} bytes", mask_frame(b"\xfe" * size, BINARY), (BINARY, b"\xfe" * size))
    for mask in (bytes(4), b"\xff" * 4, b"\0\xff\0\xff"):
        yield echoed(f"mask {mask.hex()}", mask_frame("häß".encode(), mask=mask), (TEXT, "häß".encode()))
    yield echoed("two frames", HI + HI, HELLO, HELLO)
    for size, extended in ((125, 2), (125, 8), (65_535, 8)):
        form = bytes((0x80 | (126 if extended == 2 else 127),)) + size.to_bytes(extended, "big")
        yield violation(f"{size} bytes in a length of {extended} bytes", b"\x81" + form + bytes(4) + b"*" * size)
    yield violation("length with its top bit set", b"\x81\xff\x80" + bytes(7) + bytes(4))
    yield violation("message longer than max_message", mask_frame(b"*" * (MAX_MESSAGE + 1)), code=1009)
    for opcode in (TEXT, BINARY, PING, PONG, CLOSE):
        yield violation(f"opcode {opcode} without a mask", HI + bytes((0x80 | opcode, 2)) + b"hi", HELLO)


def pings() -> Iterator[Case]:
    """Pings and pongs (RFC 6455 5.5.2 and 5.5.3)."""
    for payload in (b"", b"Hello, world!", b"\0\xff\xfe\xfd\xfc\xfb\0\xff", b"\xfe" * 125):
        yield echoed(f"ping of {len(payload)} bytes", mask_frame(payload, PING), pongs=[payload])
        yield echoed(f"pong of {len(payload)} bytes that answers nothing", mask_frame(payload, PONG) + HI, HELLO)
    yield violation("ping of 126 bytes", HI + mask_frame(b"\xfe" * 126, PING), HELLO)
    yield violation("pong of 126 bytes", HI + mask_frame(b"\xfe" * 126, PONG), HELLO)
    numbers = [b"payload-%d" % number for number in range(10)]
    yield echoed("ten pings", b"".join(mask_frame(one, PING) for one in numbers), pongs=numbers)
    yield echoed("pong and ping", mask_frame(b"unasked", PONG) + mask_frame(b"ping", PING), pongs=[b"ping"])
    for opcode in (PING, PONG):
        yield violation(f"opcode {opcode} in fragments", HI + mask_frame(b"fragment", opcode, fin=False), HELLO)


def reserved_bits() -> Iterator[Case]:
    """Reserved bits without an extension that uses them (RFC 6455 5.2)."""
    for bits in range(0x10, 0x80, 0x10):
        for opcode in (TEXT, BINARY, PING, PONG, CLOSE):
            payload = close_payload(1000) if opcode == CLOSE else b"*"
            yield violation(
                f"reserved bits {bits >> 4} with opcode {opcode}", HI + mask_frame(payload, opcode, flags=bits), HELLO
            )
        started = mask_frame(b"frag", fin=False)
        yield violation(f"reserved bits {bits >> 4} in a continuation", started + mask_frame(b"ment", CONTINUATION, flags=bits))
    ping = mask_frame(b"ping", PING)
    yield violation("reserved bit after a ping", ping + mask_frame(b"*", flags=0x40), pongs=[b"ping"])


def opcodes() -> Iterator[Case]:
    """Reserved opcodes (RFC 6455 5.2)."""
    for opcode in (*range(3, 8), *range(11, 16)):
        for payload in (b"", b"reserved"):
            yield violation(f"opcode {opcode} with {len(payload)} bytes", HI + mask_frame(payload, opcode), HELLO)
        yield violation(f"opcode {opcode} between fragments", mask_frame(b"frag", fin=False) + mask_frame(b"", opcode))


def fragmentation() -> Iterator[Case]:
    """Messages in fragments (RFC 6455 5.4)."""
    text = b"fragment1fragment2"
    whole = (TEXT, text)
    for opcode in (TEXT, BINARY):
        for sizes in ([9], [0], [18], [0, 0], [9, 0], [1] * 17, [0] * 30):
            sends = fragment(text, sizes, opcode)
            yield echoed(f"opcode {opcode} in fragments of {sizes}", sends, (opcode, text))
            ping = mask_frame(b"ping", PING)
            pongs = [b"ping"] * len(sizes)
            sends = fragment(text, sizes, opcode, ping)
            yield echoed(f"opcode {opcode} in fragments of {sizes} with pings", sends, (opcode, text), pongs=pongs)
    yield echoed("empty fragments alone", fragment(b"", [0, 0]), (TEXT, b""))
    yield echoed("two messages in fragments", fragment(text, [9]) + fragment(text, [3]), whole, whole)
    yield echoed("pongs between fragments", fragment(text, [9], between=mask_frame(b"pong", PONG)), whole)
    for fin in (True, False):
        loose = mask_frame(b"nothing to continue", CONTINUATION, fin=fin)
        yield violation(f"continuation of nothing, final: {fin}", loose + HI)
        yield violation(f"continuation after a message, final: {fin}", HI + loose, HELLO)
        yield violation(f"continuation after fragments, final: {fin}", fragment(text, [9]) + loose, whole)
        for opcode in (TEXT, BINARY):
            inside = mask_frame(b"not a continuation", opcode, fin=fin)
            yield violation(f"opcode {opcode} within a message, final: {fin}", mask_frame(b"fragment1", fin=False) + inside)
    yield Case(
        name="close between fragments",
        sends=mask_frame(b"fragment1", fin=False) + mask_frame(close_payload(1000), CLOSE) + mask_frame(b"2", CONTINUATION),
        close=close_payload(1000),
    )
    most = b"*" * MAX_MESSAGE
    yield echoed("fragments of max_message bytes together", fragment(most, [1, 65_536]), (TEXT, most))
    yield violation("fragments that are too long together", fragment(most + b"*", [65_536]), code=1009)


def utf8() -> Iterator[Case]:
    """Texts that are UTF-8 and texts that are not (RFC 6455 8.1, RFC 3629)."""
    for name, text in VALID.items():
        message = (TEXT, text)
        yield echoed(f"valid: {name}", mask_frame(text), message)
        yield echoed(f"valid, a fragment for each byte: {name}", fragment(text, [1] * (len(text) - 1)), message)
    for name, text in INVALID.items():
        yield violation(f"invalid: {name}", HI + mask_frame(text), HELLO, code=1007)
        pieces = fragment(text, [1] * (len(text) - 1))
        yield violation(f"invalid, a fragment for each byte: {name}", HI + pieces, HELLO, code=1007)
        yield echoed(f"bytes that are not text: {name}", mask_frame(text, BINARY), (BINARY, text))
    greek = "κόσμε".encode()
    # The rest of the message never comes: the server must not wait for it.
    for rest in (b"", greek):
        bad = greek + b"\xf4\x90\x80\x80" + rest
        unfinished = mask_frame(bad + b"edited", fin=False)
        yield Case(
            name=f"invalid within the first fragment, {len(rest)} bytes after it",
            sends=unfinished,
            close=(1007).to_bytes(2, "big"),
            is_violation=True,
        )
    for bad in (b"\xf4\x90", b"\xed\xa0", b"\xff", b"\xc0"):
        for size in (0, 200, 70_000):
            start = mask_frame(b"*" * size + greek + bad + b"never sent")
            yield Case(
                name=f"invalid {bad.hex()} after {size} bytes in a frame that is not complete",
                sends=start[: -len(b"never sent")],
                close=(1007).to_bytes(2, "big"),
                is_violation=True,
            )


def closing() -> Iterator[Case]:
    """The closing handshake (RFC 6455 5.5.1 and 7)."""
    close = mask_frame(close_payload(1000), CLOSE)
    bye = close_payload(1000)
    yield Case(name="close after a message", sends=HI + close, messages=(HELLO,), close=bye)
    yield Case(name="two closes", sends=close + close, close=bye)
    yield Case(name="ping after a close", sends=close + mask_frame(b"ping", PING), close=bye)
    yield Case(name="message after a close", sends=close + HI, close=bye)
    yield Case(name="close without a code", sends=mask_frame(b"", CLOSE), close=b"")
    yield violation("close of one byte", mask_frame(b"a", CLOSE))
    for reason in ("", "Hello, world!", "*" * 123, "häß " * 20):
        sends = mask_frame(close_payload(1000, reason), CLOSE)
        yield Case(name=f"close with a reason of {len(reason.encode())} bytes", sends=sends, close=bye)
    yield violation("close of 126 bytes", mask_frame(close_payload(1000, "*" * 124), CLOSE))
    yield violation("close with a reason that is not UTF-8", mask_frame(b"\x03\xe8" + INVALID["surrogate"], CLOSE), code=1007)
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999):
        yield Case(name=f"close code {code}", sends=mask_frame(close_payload(code, "why"), CLOSE), close=close_payload(code))
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535):
        yield violation(f"close code {code}, which is not valid", mask_frame(close_payload(code, "why"), CLOSE))
    yield violation("close in fragments", mask_frame(close_payload(1000), CLOSE, fin=False))


def limits() -> Iterator[Case]:
    """Long messages, and many messages."""
    for opcode in (TEXT, BINARY):
        for size in (1 << 18, MAX_MESSAGE):
            long = (opcode, b"\x2a" * size)
            yield echoed(f"opcode {opcode} of {size} bytes", mask_frame(long[1], opcode), long)
        long = (opcode, b"\x2a" * (1 << 18))
        for size in (64, 1_000, 4_096, 65_536):
            sends = fragment(long[1], [size] * ((1 << 18) // size - 1), opcode)
            yield echoed(f"opcode {opcode} in fragments of {size} bytes", sends, long)
        auto = (opcode, b"\x2a" * 65_536)
        yield echoed(f"opcode {opcode} of 64 KiB in fragments of 1300", fragment(auto[1], [1_300] * 50, opcode), auto)
        for size in (0, 16, 64, 256, 1_024, 4_096):
            one = (opcode, b"\x2a" * size)
            yield echoed(f"100 of opcode {opcode} with {size} bytes", mask_frame(one[1], opcode) * 100, *[one] * 100)


GROUPS: Final = {
    "framing": framing,
    "pings": pings,
    "reserved bits": reserved_bits,
    "opcodes": opcodes,
    "fragmentation": fragmentation,
    "utf8": utf8,
    "closing": closing,
    "limits": limits,
}


def all_cases() -> Iterator[Case]:
    return chain.from_iterable(group() for group in GROUPS.values())
