"""Sending connections to the inbox of a worker."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import pytest

from scalesocket.io.poller import Poller
from scalesocket.placement import inbox as inbox_module
from scalesocket.placement.facts import Delivery, Facts, Kind, encode_message
from scalesocket.placement.inbox import (
    MAX_RECEIVES,
    MAX_TOGETHER,
    MAX_TOGETHER_SIZE,
    MAX_WAITING,
    Inbox,
    Outbox,
    make_inbox,
)
from scalesocket.wire.handshake import Request
from tests.conftest import capture_all_logs
from tests.placement.test_facts import REQUEST
from tests.playing import until


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": request.param}


class Mail:
    """An inbox, its outbox, and what was received."""

    def __init__(self) -> None:
        self.poller = Poller(asyncio.get_running_loop())
        self.sending, self.receiving = make_inbox()
        self.outbox = Outbox(self.sending, asyncio.get_running_loop())
        self.received: list[tuple[Facts | Delivery, int]] = []
        self.lost = 0
        self.inbox: Inbox | None = None

    def open(self) -> Inbox:
        """Begin to read."""
        self.inbox = Inbox(
            self.receiving,
            self.poller,
            on_facts=lambda facts, fd: self.received.append((facts, fd)),
            on_delivery=lambda delivery, fd: self.received.append((delivery, fd)),
            on_lost=self._count_lost,
        )
        return self.inbox

    @property
    def names(self) -> list[str]:
        return [message.room if isinstance(message, Facts) else message.name for message, _ in self.received]

    def _count_lost(self) -> None:
        self.lost += 1

    def close(self) -> None:
        self.outbox.close()
        if self.inbox is not None:
            self.inbox.stop()
        for _, fd in self.received:
            os.close(fd)
        self.poller.close()
        self.sending.close()
        self.receiving.close()


@pytest.fixture
async def mail(anyio_backend: object) -> AsyncIterator[Mail]:
    with closing(Mail()) as mail:
        yield mail
    await asyncio.sleep(0)


def facts_of(room: str, *, request: Request = REQUEST, rest: bytes = b"") -> Facts:
    return Facts(kind=Kind.SOCKET, app="chat", room=room, generation=1, request=request, rest=rest)


async def fill(mail: Mail, fd: int) -> "list[asyncio.Future[bool]]":
    """Send until a message has to wait; return what waits."""
    for number in range(10_000):
        sent = mail.outbox.send(facts_of(str(number)), fd)
        if not isinstance(sent, bool):
            return [sent]
        assert sent
    raise AssertionError("the inbox is never full")


async def test_a_connection_arrives_with_its_facts(mail: Mail) -> None:
    mail.open()
    ours, theirs = socket.socketpair()

    assert mail.outbox.send(facts_of("lobby", rest=b"first"), theirs.fileno()) is True
    theirs.close()
    await until(lambda: len(mail.received) == 1)

    ((facts, fd),) = mail.received
    assert facts == facts_of("lobby", rest=b"first")
    os.write(fd, b"hello")
    with ours:
        assert ours.recv(10) == b"hello"
    assert not os.get_inheritable(fd)


async def test_what_was_sent_before_a_reader_came_is_read(mail: Mail) -> None:
    first = mail.open()
    first.stop()
    for name in ("one", "two", "three"):
        assert mail.outbox.send(Delivery(name=name), 0) is True
    await asyncio.sleep(0.01)
    assert mail.names == []  # nobody reads

    mail.open()

    await until(lambda: mail.names == ["one", "two", "three"])


async def test_one_iteration_receives_a_bounded_number(mail: Mail) -> None:
    for number in range(2 * MAX_RECEIVES):
        mail.outbox.send(Delivery(name=str(number)), 0)
    inbox = mail.open()

    inbox._read()

    assert len(mail.received) == MAX_RECEIVES
    await until(lambda: len(mail.received) == 2 * MAX_RECEIVES)


async def test_messages_wait_in_order_while_the_inbox_is_full(mail: Mail) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            waiting = await fill(mail, theirs.fileno())
            waiting += [
                sent for room in ("b", "c") if not isinstance(sent := mail.outbox.send(facts_of(room), theirs.fileno()), bool)
            ]
        assert len(waiting) == 3

        mail.open()

        assert await asyncio.gather(*waiting) == [True, True, True]
        await until(lambda: mail.names[-1:] == ["c"])
        assert mail.names[:-2] == [str(number) for number in range(len(mail.names) - 2)]
        os.write(mail.received[-1][1], b"x")
        assert ours.recv(1) == b"x"


async def test_a_full_inbox_refuses_after_a_deadline(mail: Mail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "SEND_TIMEOUT", 0.02)

    (waiting,) = await fill(mail, 0)

    assert await waiting is False


async def test_a_bounded_number_waits(mail: Mail) -> None:
    waiting = await fill(mail, 0)
    waiting += [sent for _ in range(MAX_WAITING - 1) if not isinstance(sent := mail.outbox.send(facts_of("x"), 0), bool)]
    assert len(waiting) == MAX_WAITING

    assert mail.outbox.send(facts_of("y"), 0) is False

    mail.outbox.close()
    assert set(await asyncio.gather(*waiting)) == {False}


async def test_a_withdrawn_connection_is_not_sent(mail: Mail) -> None:
    (withdrawn,) = await fill(mail, 0)
    second = mail.outbox.send(facts_of("second"), 0)
    assert not isinstance(second, bool)

    withdrawn.cancel()
    mail.open()

    assert await second is True
    await until(lambda: mail.names[-1:] == ["second"])
    assert mail.names[:-1] == [str(number) for number in range(len(mail.names) - 1)]


async def test_a_waiting_message_keeps_no_descriptor_after_its_end(mail: Mail) -> None:
    ours, theirs = socket.socketpair()
    (waiting,) = await fill(mail, theirs.fileno())
    theirs.close()
    mail.outbox.close()
    await waiting
    mail.open()
    await until(lambda: len(mail.received) > 0)
    mail.outbox.send(Delivery(name="last"), 0)
    await until(lambda: mail.names[-1] == "last")

    for _, fd in mail.received:
        os.close(fd)
    mail.received.clear()

    with ours:
        ours.settimeout(5)
        assert ours.recv(1) == b""


class Pairs:
    """Connections to hand over: the other end of each, and what became of it."""

    def __init__(self, mail: Mail) -> None:
        self.mail = mail
        self.ours: list[socket.socket] = []
        self.settled: list[bool | asyncio.Future[bool]] = []

    def post(self, count: int, *, rest: bytes = b"") -> None:
        for _ in range(count):
            ours, theirs = socket.socketpair()

            def on_sent(sent: Any, theirs: socket.socket = theirs) -> None:
                self.settled.append(sent)
                theirs.close()

            self.mail.outbox.post(facts_of(f"posted {len(self.ours)}", rest=rest), theirs.fileno(), on_sent)
            self.ours.append(ours)

    def close(self) -> None:
        for ours in self.ours:
            ours.close()


@pytest.fixture
def pairs(mail: Mail) -> Iterator[Pairs]:
    with closing(Pairs(mail)) as pairs:
        yield pairs


def count_messages(mail: Mail) -> int:
    """Count the messages in the kernel's queue, and drop them."""
    count = 0
    while True:
        try:
            mail.receiving.recvmsg(1, socket.CMSG_SPACE(0), socket.MSG_DONTWAIT)  # the kernel closes the descriptors
        except BlockingIOError:
            return count
        count += 1


async def test_connections_of_one_iteration_are_sent_together_each_with_its_descriptor(mail: Mail, pairs: Pairs) -> None:
    pairs.post(3)
    assert not pairs.settled
    await asyncio.sleep(0)
    assert pairs.settled == [True, True, True]
    mail.outbox.send(Delivery(name="next"), 0)
    mail.open()

    await until(lambda: mail.names == ["posted 0", "posted 1", "posted 2", "next"])

    for (_, fd), ours, text in zip(mail.received, pairs.ours, b"abc", strict=False):
        os.write(fd, bytes([text]))
        assert ours.recv(2) == bytes([text])


@pytest.mark.parametrize(
    ("count", "size", "messages"),
    [(MAX_TOGETHER, 0, 1), (MAX_TOGETHER + 1, 0, 2), (4, MAX_TOGETHER_SIZE // 3, 2), (2, MAX_TOGETHER_SIZE, 2)],
    ids=["many", "too many", "long", "too long"],
)
async def test_a_message_has_a_bounded_number_of_connections(
    mail: Mail, pairs: Pairs, count: int, size: int, messages: int
) -> None:
    pairs.post(count, rest=bytes(size))
    await asyncio.sleep(0)

    assert pairs.settled == [True] * count
    assert count_messages(mail) == messages


async def test_a_message_with_several_connections_counts_as_many_in_one_iteration(mail: Mail, pairs: Pairs) -> None:
    pairs.post(3 * MAX_TOGETHER)
    await asyncio.sleep(0)
    inbox = mail.open()

    inbox._read()

    assert len(mail.received) == 2 * MAX_TOGETHER


async def test_posted_connections_wait_in_order_while_the_inbox_is_full(mail: Mail, pairs: Pairs) -> None:
    (first,) = await fill(mail, 0)
    pairs.post(2)
    await asyncio.sleep(0)
    last = mail.outbox.send(Delivery(name="last"), 0)
    assert not any(isinstance(sent, bool) for sent in (*pairs.settled, last))

    mail.open()

    await until(lambda: mail.names[-3:] == ["posted 0", "posted 1", "last"])
    assert [await sent for sent in (first, *pairs.settled, last) if not isinstance(sent, bool)] == [True] * 4


async def test_an_inbox_that_becomes_full_takes_the_posted_ones_later(mail: Mail, pairs: Pairs) -> None:
    pairs.post(2)
    mail.sending.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            socket.send_fds(mail.sending, [b"\x91" + encode_message(Delivery(name="other"))], [0])
    await asyncio.sleep(0)
    assert not any(isinstance(sent, bool) for sent in pairs.settled)

    mail.open()

    await until(lambda: mail.names[-2:] == ["posted 0", "posted 1"])


async def test_posted_connections_are_refused_if_sending_fails(mail: Mail, pairs: Pairs) -> None:
    mail.receiving.close()
    with capture_all_logs() as events:
        pairs.post(2)
        await asyncio.sleep(0)

    assert pairs.settled == [False, False]
    assert [(event["event"], event["error"]) for event in events] == [("handing over failed", "EPIPE")]


async def test_a_fault_with_one_posted_connection_leaves_the_others(mail: Mail, pairs: Pairs) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a bug")

    with capture_all_logs() as events:
        mail.outbox.post(facts_of("faulty"), 0, fail)
        pairs.post(1)
        await asyncio.sleep(0)

    assert pairs.settled == [True]
    assert [event["event"] for event in events] == ["handing over a connection failed"]


async def test_an_outbox_that_closes_sends_what_was_posted(mail: Mail, pairs: Pairs) -> None:
    pairs.post(1)
    mail.outbox.close()

    assert pairs.settled == [True]


async def test_connections_that_find_no_free_descriptor_are_lost_alone(mail: Mail, pairs: Pairs) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pairs.post(3)
    await asyncio.sleep(0)
    with capture_all_logs() as events:
        free = os.dup(0)  # the lowest free descriptor
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
        try:
            mail.open()._read()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert mail.names == ["posted 0"]
    assert mail.lost == 2
    assert [(event["event"], event["connections"]) for event in events] == [("connection lost: no file descriptor for it", 2)]
    for ours in pairs.ours[1:]:
        assert ours.recv(1) == b""


async def test_too_large_a_message_is_refused(mail: Mail) -> None:
    assert mail.outbox.send(facts_of("lobby", rest=bytes(200_000)), 0) is False


async def test_the_longest_head_arrives(mail: Mail) -> None:
    mail.open()
    target = "/chat/lobby?" + "\xff" * 32_700
    request = REQUEST._replace(target=target, query="\N{REPLACEMENT CHARACTER}" * 32_700)

    assert mail.outbox.send(facts_of("lobby", request=request, rest=bytes(16_384)), 0) is True

    await until(lambda: len(mail.received) == 1)
    assert mail.received[0][0] == facts_of("lobby", request=request, rest=bytes(16_384))


@pytest.mark.parametrize(
    ("text", "descriptors"),
    [(b"rubbish", 1), (b"", 1), (b"rubbish", 0), (b"\x91" + encode_message(Delivery(name="x")), 2), (bytes(300_000), 1)],
    ids=["rubbish", "empty", "no descriptor", "two descriptors", "too long"],
)
async def test_a_wrong_message_is_dropped_with_its_descriptors(mail: Mail, text: bytes, descriptors: int) -> None:
    mail.open()
    ours, theirs = socket.socketpair()
    with ours, capture_all_logs() as events:
        with theirs:
            socket.send_fds(mail.sending, [text], [theirs.fileno()] * descriptors)
        mail.outbox.send(Delivery(name="next"), 0)

        await until(lambda: mail.names == ["next"])

        assert [event["event"] for event in events] == ["message of another process dropped"]
        ours.settimeout(5)
        assert ours.recv(1) == b""


async def test_without_a_free_descriptor_only_that_connection_is_lost(mail: Mail) -> None:
    mail.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ours, theirs = socket.socketpair()
    with ours, capture_all_logs() as events:
        mail.outbox.send(facts_of("lost"), theirs.fileno())
        theirs.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # open descriptors stay
        try:
            await until(lambda: mail.lost == 1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        mail.outbox.send(Delivery(name="next"), 0)

        await until(lambda: mail.names == ["next"])

        assert [event["event"] for event in events] == ["connection lost: no file descriptor for it"]
        ours.settimeout(5)
        assert ours.recv(1) == b""
