"""A websocket client that sends and receives raw bytes, and does nothing by itself."""

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

DEADLINE: Final = 10.0
MASK: Final = bytes.fromhex("37fa213d")  # RFC 6455 5.7
KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 1.3

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

FIN: Final = 0x80
RSV1: Final = 0x40


class Frame(NamedTuple):
    """A frame of the server: its first byte (FIN, reserved bits, opcode) and its payload."""

    first: int
    payload: bytes

    @property
    def opcode(self) -> int:
        return self.first & 0x0F


def mask_frame(payload: bytes, opcode: int = TEXT, *, fin: bool = True, flags: int = 0, mask: bytes = MASK) -> bytes:
    """Encode a frame of a client (RFC 6455 5.2)."""
    size = len(payload)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 1 << 16:
        length = bytes((0x80 | 126,)) + size.to_bytes(2, "big")
    else:
        length = bytes((0x80 | 127,)) + size.to_bytes(8, "big")
    key = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)
    return bytes(((FIN if fin else 0) | flags | opcode,)) + length + mask + masked


def close_payload(code: int, reason: str = "") -> bytes:
    return code.to_bytes(2, "big") + reason.encode()


def upgrade(path: str, *fields: str, host: str = "localhost") -> bytes:
    """Make the head of an upgrade request."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *fields,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, to: int | socket.socket | Path, *, tls: ssl.SSLContext | None = None) -> Self:
        """Connect to a port or a unix socket, or use an open connection."""
        if isinstance(to, Path):
            return cls(*await asyncio.open_unix_connection(to))
        if isinstance(to, socket.socket):
            return cls(*await asyncio.open_connection(sock=to))
        return cls(*await asyncio.open_connection("127.0.0.1", to, ssl=tls))

    @classmethod
    async def join(cls, to: int | socket.socket | Path, path: str, *fields: str) -> Self:
        """Connect and upgrade."""
        client = await cls.connect(to)
        client.send(upgrade(path, *fields))
        head = await client.read_head()
        assert head.startswith("HTTP/1.1 101 "), head
        return client

    def send(self, raw: bytes) -> None:
        self.writer.write(raw)

    def say(self, text: str) -> None:
        self.send(mask_frame(text.encode()))

    async def read_head(self) -> str:
        """Read the head of a response, including the empty line."""
        async with asyncio.timeout(DEADLINE):
            return (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")

    async def read_frame(self) -> Frame:
        """Read the next frame."""
        async with asyncio.timeout(DEADLINE):
            first, second = await self.reader.readexactly(2)
            assert second < 128, "a server must not mask"
            size = second
            if size >= 126:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            return Frame(first, await self.reader.readexactly(size))

    async def hear(self, *texts: str) -> None:
        """Check that the next frames are these texts."""
        for text in texts:
            assert await self.read_frame() == (FIN | TEXT, text.encode())

    async def read_close(self) -> tuple[int, str]:
        """Check that the next frame is a close frame; return its code (1005 for none) and reason."""
        frame = await self.read_frame()
        assert frame.first == FIN | CLOSE, frame
        if not frame.payload:
            return 1005, ""
        return int.from_bytes(frame.payload[:2], "big"), frame.payload[2:].decode()

    async def read_close_after_echoes(self) -> int:
        """Skip messages and pongs up to the close frame; return its code."""
        while (frame := await self.read_frame()).opcode in (TEXT, BINARY, PONG):
            pass
        assert frame.first == FIN | CLOSE, frame
        return int.from_bytes(frame.payload[:2], "big")

    async def read_end(self) -> bytes:
        """Read everything until the server ends the connection."""
        async with asyncio.timeout(DEADLINE):
            return await self.reader.read()

    def cut(self) -> None:
        """Abort the connection."""
        self.writer.transport.abort()

    async def close(self) -> None:
        """Abort the connection, and wait until it is closed."""
        self.cut()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
