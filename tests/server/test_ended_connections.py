"""What Hypercorn writes to a connection that has ended."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from scalesocket.server.hypercorn.server import open_hypercorn
from scalesocket.status import HasSite

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
RUNNING = cast(HasSite, SimpleNamespace(site=SimpleNamespace(apps={})))
SOCKET = SimpleNamespace(family=socket.AF_UNIX, getpeername=str, getsockname=str)


class Transport(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self, *, is_ended: bool) -> None:
        super().__init__({"socket": SOCKET})
        self.written = b""
        self._is_ended = is_ended
        self._protocol: asyncio.BaseProtocol | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self._is_ended

    def can_write_eof(self) -> bool:
        return False

    def write_eof(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._is_ended = True
        if self._protocol is not None:
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)
            self._protocol = None

    abort = close


@pytest.mark.parametrize("is_ended", [False, True])
async def test_nothing_is_written_to_a_connection_that_has_ended(*, is_ended: bool) -> None:
    answered = asyncio.Event()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
        answered.set()

    transport = Transport(is_ended=is_ended)
    async with asyncio.timeout(5), open_hypercorn(answer, RUNNING) as hypercorn:
        hypercorn.take_over(transport, REQUEST)
        await answered.wait()

    if is_ended:
        assert transport.written == b""
    else:
        assert b"hello" in transport.written
