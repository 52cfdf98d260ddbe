"""Bytes between a client and one end of a socket pair."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from typing import Final

import pytest

from scalesocket.io.poller import Poller
from scalesocket.io.transport import SocketTransport
from scalesocket.placement import pump as pump_module
from scalesocket.placement.passages import Passages
from scalesocket.placement.pump import BUFFER, Pump
from scalesocket.placement.stream import open_stream
from tests.playing import DEADLINE, until

KERNEL: Final = 1024 * 1024
"""More than the kernel holds in a socket pair, in bytes."""


class Pumped:
    """A pump between two socket pairs: the client's, and the owner's."""

    def __init__(self, poller: Poller, early: bytes = b"", patience: float = 10.0) -> None:
        self.passages = Passages()
        self.lost = 0
        self.client, outer = socket.socketpair()
        inner, self.owner = socket.socketpair()
        for end in self.client, self.owner:
            end.setblocking(False)
        transport = SocketTransport(outer.detach(), None, asyncio.Protocol(), poller=poller)
        transport.pause_reading()
        self.outer = transport
        self.pump = Pump(
            transport,
            open_stream(inner, poller=poller),
            early,
            poller=poller,
            passages=self.passages,
            patience=patience,
            on_lost=self._count_lost,
        )

    def _count_lost(self, transport: asyncio.Transport) -> None:
        self.lost += 1

    def close(self) -> None:
        self.pump.cut()
        self.client.close()
        self.owner.close()


async def read(sock: socket.socket, size: int) -> bytes:
    """Read this many bytes, or up to the end."""
    text = b""
    async with asyncio.timeout(DEADLINE):
        while len(text) < size:
            chunk = await asyncio.get_running_loop().sock_recv(sock, size - len(text))
            if not chunk:
                break
            text += chunk
    return text


async def send(sock: socket.socket, text: bytes) -> None:
    async with asyncio.timeout(DEADLINE):
        await asyncio.get_running_loop().sock_sendall(sock, text)


async def fill(sock: socket.socket) -> bytes:
    """Send until nothing more is taken for 0.2 s; return what was."""
    text, idle = b"", 0
    while idle < 20:
        piece = os.urandom(1000)
        try:
            text += piece[: sock.send(piece)]
            idle = 0
        except BlockingIOError:
            idle += 1
            await asyncio.sleep(0.01)
    return text


@pytest.fixture
async def poller(anyio_backend: object) -> AsyncIterator[Poller]:
    with closing(Poller(asyncio.get_running_loop())) as poller:
        yield poller


@pytest.fixture
async def pumped(poller: Poller) -> AsyncIterator[Pumped]:
    with closing(Pumped(poller, b"early ")) as pumped:
        yield pumped
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_bytes_pass_both_ways_the_early_ones_first(pumped: Pumped) -> None:
    text, answer = os.urandom(KERNEL), os.urandom(KERNEL)

    sending = [asyncio.create_task(send(pumped.client, text)), asyncio.create_task(send(pumped.owner, answer))]

    assert await read(pumped.owner, 6 + len(text)) == b"early " + text
    assert await read(pumped.client, len(answer)) == answer
    await asyncio.gather(*sending)


@pytest.mark.parametrize("way", ["to the owner", "to the client"])
async def test_what_one_side_does_not_take_is_not_read_from_the_other(pumped: Pumped, way: str) -> None:
    source = pumped.client if way == "to the owner" else pumped.owner

    sent = await fill(source)

    assert len(sent) < 4 * KERNEL
    held = pumped.pump._inner.get_write_buffer_size() + pumped.outer.get_write_buffer_size()
    assert BUFFER < held <= 3 * BUFFER


async def test_the_end_of_one_side_passes_while_the_other_still_sends(pumped: Pumped) -> None:
    await send(pumped.client, b"last")
    pumped.client.shutdown(socket.SHUT_WR)

    assert await read(pumped.owner, 100) == b"early last"
    await send(pumped.owner, b"answer")
    pumped.owner.close()

    assert await read(pumped.client, 100) == b"answer"
    pumped.client.close()
    await until(lambda: len(pumped.passages) == 0 and pumped.lost == 1)


async def test_what_a_client_sent_before_it_was_lost_reaches_the_owner(pumped: Pumped) -> None:
    await send(pumped.owner, b"unread by the client")
    text = b""
    while not pumped.pump._inner.get_write_buffer_size():  # the owner's end is full
        piece = os.urandom(10_000)
        await send(pumped.client, piece)
        text += piece
        await asyncio.sleep(0.001)

    pumped.client.close()  # with unread input, which resets the connection
    await until(lambda: pumped.lost == 1)

    assert await read(pumped.owner, 10 * KERNEL) == b"early " + text
    await until(lambda: pumped.lost == 1 and len(pumped.passages) == 0)


async def test_an_abort_of_the_owner_aborts_the_client(pumped: Pumped) -> None:
    await send(pumped.client, b"unread by the owner")
    await until(lambda: pumped.pump._inner.get_write_buffer_size() == 0)
    await asyncio.sleep(0.01)

    pumped.owner.close()  # with unread input: a reset

    assert await read(pumped.client, 1) == b""
    await until(lambda: len(pumped.passages) == 0 and pumped.lost == 1)


async def test_a_client_that_takes_nothing_after_its_owner_has_ended_is_cut(
    poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump_module, "CHECK_INTERVAL", 0.02)
    with closing(Pumped(poller, patience=0.1)) as pumped:
        await fill(pumped.owner)
        assert len(pumped.passages) == 1  # its owner decides about it

        pumped.owner.close()

        await until(lambda: len(pumped.passages) == 0 and pumped.lost == 1)


@pytest.mark.parametrize("is_end_seen", [False, True])
async def test_a_client_that_reads_slowly_and_still_sends_gets_everything_after_its_owner_has_ended(
    poller: Poller, monkeypatch: pytest.MonkeyPatch, *, is_end_seen: bool
) -> None:
    monkeypatch.setattr(pump_module, "CHECK_INTERVAL", 0.02)
    with closing(Pumped(poller, patience=1.2)) as pumped:
        text = await fill(pumped.owner)
        pumped.owner.close()
        received = b""
        while len(received) < len(text):
            chunk = await read(pumped.client, 50_000)
            assert chunk
            received += chunk
            if pumped.pump._has_inner_ended or not is_end_seen:
                with suppress(BrokenPipeError):  # everything is in the kernel, and the pump has closed
                    pumped.client.send(b"to nobody")
            await asyncio.sleep(0.2)  # the kernel takes more once half of it is read

        assert received == text


async def test_the_end_of_a_passage_ends_the_owners_input_alone(pumped: Pumped) -> None:
    pumped.pump.end()
    pumped.pump.end()
    await send(pumped.client, b"dropped")

    assert await read(pumped.owner, 100) == b"early "
    await send(pumped.owner, b"bye")
    assert await read(pumped.client, 3) == b"bye"


async def test_passages_are_drained_gradually() -> None:
    class Recorded:
        def __init__(self) -> None:
            self.ended_at: float | None = None

        def end(self) -> None:
            self.ended_at = asyncio.get_running_loop().time()
            passages.remove(self)

        def cut(self) -> None: ...

    passages = Passages()
    opened = [Recorded() for _ in range(200)]
    for passage in opened:
        passages.add(passage)
    started_at = asyncio.get_running_loop().time()

    await passages.drain(0.2)

    ends = [passage.ended_at for passage in opened if passage.ended_at is not None]
    assert len(ends) == 200
    assert 0.05 < max(ends) - started_at < 2.0
    assert len(set(ends)) >= 5
    await passages.wait_none()
