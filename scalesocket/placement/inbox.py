"""The inbox of a worker: connections that other processes hand over to it, in messages of one or several with their descriptors.

It is a socket pair that the supervisor keeps for the life of the server. Messages to a worker that has ended stay in the
kernel's queue, and its successor reads it.
"""

import array
import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec
import structlog

from scalesocket.cleanup import logged_faults
from scalesocket.config.units import KiB
from scalesocket.io.poller import Poller
from scalesocket.placement.facts import Delivery, Facts, Message, decode_messages, encode_message
from scalesocket.placement.placement import OnSent

log = structlog.get_logger("placement")

MAX_MESSAGE: Final = 192 * KiB
"""Bytes of one message. The longest request head has 32 KiB, and each of its characters may take 5 bytes: see `Request`."""
MAX_TOGETHER: Final = 15
"""Connections in one message: what one byte of msgpack counts."""
MAX_TOGETHER_SIZE: Final = 32 * KiB
"""Bytes of a message with several connections. A longer one would not fit into a queue that still has room for short ones."""
MAX_RECEIVES: Final = 16
"""Connections received in one event-loop iteration, unless the last message has more."""
MAX_WAITING: Final = 256
"""Messages that wait in a sender until the inbox has room again; more are refused."""
SEND_TIMEOUT: Final = 5.0
"""Seconds that a message waits in its sender."""
QUEUE_SIZE: Final = 1024 * KiB
"""Bytes in the kernel's queue. Without CAP_NET_ADMIN they are limited by net.core.wmem_max, which is 208 KiB by default."""
SO_SNDBUFFORCE: Final = 32  # asm-generic/socket.h
DESCRIPTORS_HINT: Final = "raise the limit of open files (LimitNOFILE= of systemd)"

_FD: Final = array.array("i").itemsize
_ANCILLARY: Final = socket.CMSG_SPACE((MAX_TOGETHER + 1) * _FD)
_ARRAY: Final = 0x90  # of msgpack; the number of items is in the lower half of the byte
_SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_RECEIVE_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


def make_inbox() -> tuple[socket.socket, socket.socket]:
    """Make an inbox: the end that senders share, and the end that its worker reads."""
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sending.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, QUEUE_SIZE)
    except PermissionError:
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_SIZE)
    return sending, receiving


def describe_shortage(error: OSError) -> str:
    """Describe why a process could not open something, and what to do if its descriptors are used up."""
    text = error.strerror or str(error)
    return f"{text}: {DESCRIPTORS_HINT}" if error.errno in (errno.EMFILE, errno.ENFILE) else text


class Outbox:
    """Sends to the inbox of one worker, and never blocks. Messages wait in a bounded queue while the inbox is full."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        """Send on the sending end of an inbox, or a duplicate of it; the caller closes it after `close`."""
        self._sock = sock
        self._loop = loop
        self._waiting: deque[_Waiting] = deque()
        self._posted: list[_Posted] = []
        self._posted_size = 0

    @property
    def is_behind(self) -> bool:
        """Whether messages wait (`Owner.is_behind`)."""
        return bool(self._waiting)

    def hand_over(self, facts: Facts, fd: int) -> "bool | asyncio.Future[bool]":
        """Send a connection (`Owner.hand_over`)."""
        return self.send(facts, fd)

    def post(self, facts: Facts, fd: int, on_sent: OnSent) -> None:
        """Send a connection together with others of this event-loop iteration (`Owner.post`)."""
        text = encode_message(facts)
        if self._posted_size + len(text) > MAX_TOGETHER_SIZE:
            self._send_posted()
        if not self._posted:
            self._loop.call_soon(self._send_posted)
        self._posted.append(_Posted(text, fd, on_sent))
        self._posted_size += len(text)
        if len(self._posted) == MAX_TOGETHER:
            self._send_posted()

    def send(self, message: Message, fd: int) -> "bool | asyncio.Future[bool]":
        """Send a message with a copy of a descriptor. Return whether it was sent; a future of that if the inbox is full."""
        self._send_posted()
        return self._send_or_wait(encode_message(message), fd)

    def _send_or_wait(self, text: bytes, fd: int) -> "bool | asyncio.Future[bool]":
        if len(text) > MAX_MESSAGE:
            log.warning("connection too large to hand over", size=len(text), limit=MAX_MESSAGE)
            return False
        if not self._waiting:
            sent = self._send((text,), (fd,))
            if sent is not None:
                return sent
        if len(self._waiting) >= MAX_WAITING:
            return False
        try:
            waiting = _Waiting(text, fd, self._loop)
        except OSError:  # no descriptor for the copy
            return False
        if not self._waiting:
            self._loop.add_writer(self._sock.fileno(), self._flush)
        self._waiting.append(waiting)
        return waiting.sent

    def close(self) -> None:
        """Send what was posted, and refuse the messages that wait."""
        self._send_posted()
        while self._waiting:
            self._waiting.popleft().end(is_sent=False)
        self._loop.remove_writer(self._sock.fileno())

    def _send_posted(self) -> None:
        """Send what was posted in one message. If the inbox is full, each connection waits by itself."""
        posted, self._posted, self._posted_size = self._posted, [], 0
        if not posted:
            return
        sent = None
        if not self._waiting and sum(len(one.text) for one in posted) <= MAX_TOGETHER_SIZE:
            sent = self._send([one.text for one in posted], [one.fd for one in posted])
        for one in posted:
            with logged_faults("handing over a connection"):
                one.on_sent(self._send_or_wait(one.text, one.fd) if sent is None else sent)

    def _send(self, texts: Sequence[bytes], fds: Sequence[int]) -> bool | None:
        """Send a message now; None if the inbox is full."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        try:
            self._sock.sendmsg([bytes((_ARRAY + len(texts),)), *texts], rights, _SEND_FLAGS)
        except BlockingIOError:
            return None
        except OSError as error:  # such as ETOOMANYREFS: too many descriptors in flight (unix(7)), for which nothing can wait
            log.warning("handing over failed", error=errno.errorcode.get(error.errno or 0, str(error)))
            return False
        return True

    def _flush(self) -> None:
        """Send what waits, as far as the inbox takes it."""
        waiting = self._waiting
        while waiting:
            first = waiting[0]
            sent = False if first.sent.done() else self._send((first.text,), (first.fd,))
            if sent is None:
                return
            waiting.popleft().end(is_sent=sent)
        self._loop.remove_writer(self._sock.fileno())


class _Posted(NamedTuple):
    """A connection that is sent at the end of this event-loop iteration. Its descriptor stays open until `on_sent` is called.

    A transport that is aborted meanwhile closes its descriptor by a later `call_soon` than that of `_send_posted`.
    """

    text: bytes
    fd: int
    on_sent: OnSent


class _Waiting:
    """A message that waits, with a copy of its descriptor: the sender may close its own meanwhile."""

    def __init__(self, text: bytes, fd: int, loop: asyncio.AbstractEventLoop) -> None:
        self.text = text
        self.fd = os.dup(fd)
        self.sent: asyncio.Future[bool] = loop.create_future()
        self.sent.add_done_callback(self._done)
        self._timer = loop.call_later(SEND_TIMEOUT, partial(self.end, is_sent=False))

    def end(self, *, is_sent: bool) -> None:
        """Set the result, unless there is one."""
        if not self.sent.done():
            self.sent.set_result(is_sent)

    def _done(self, _: object) -> None:
        self._timer.cancel()
        os.close(self.fd)


class Inbox:
    """Reads the inbox of this worker."""

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        *,
        on_facts: Callable[[Facts, int], None],
        on_delivery: Callable[[Delivery, int], None],
        on_lost: Callable[[], None],
    ) -> None:
        """Read from the receiving end until `stop`; the caller closes it after that.

        The first two callbacks take ownership of the descriptor. `on_lost` is called for each message whose descriptor was lost,
        because this process had none left for it.
        """
        self._sock = sock
        self._poller = poller
        self._on_facts = on_facts
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._buffer = bytearray(MAX_MESSAGE)
        poller.add_reader(sock.fileno(), self._read)

    def stop(self) -> None:
        """Read no more. Messages stay in the kernel's queue for the next reader. Calls may repeat."""
        if self._sock.fileno() >= 0:
            self._poller.remove_reader(self._sock.fileno())

    def _read(self) -> None:
        received = 0
        while received < MAX_RECEIVES:
            try:
                size, ancillary, flags, _address = self._sock.recvmsg_into([self._buffer], _ANCILLARY, _RECEIVE_FLAGS)
            except BlockingIOError:
                return
            fds = array.array("i")
            for _level, _type, data in ancillary:
                fds.frombytes(data[: len(data) - len(data) % _FD])
            if not size and not fds and not flags & socket.MSG_CTRUNC:  # no sender is left
                self.stop()
                return
            self._receive(memoryview(self._buffer)[:size], fds.tolist(), flags)
            received += len(fds) or 1

    def _receive(self, text: memoryview, fds: list[int], flags: int) -> None:
        """Pass on what a message has, if it is whole and has a descriptor for each."""
        messages: list[Message] = []
        try:
            messages = decode_messages(text)
            fault = "" if len(fds) == len(messages) and not flags & socket.MSG_TRUNC else "cut, or without a descriptor"
        except msgspec.DecodeError as error:
            fault = str(error)
        if flags & socket.MSG_CTRUNC and len(fds) < len(messages):  # the kernel has closed the other descriptors
            lost = len(messages) - len(fds)
            log.error("connection lost: no file descriptor for it", connections=lost, hint=DESCRIPTORS_HINT)
            for _ in range(lost):
                self._on_lost()
        elif fault:
            log.error("message of another process dropped", error=fault, size=len(text), descriptors=len(fds))
            for fd in fds:
                os.close(fd)
            return
        for message, fd in zip(messages, fds, strict=False):
            with logged_faults("taking a connection over"):
                if isinstance(message, Facts):
                    self._on_facts(message, fd)
                else:
                    self._on_delivery(message, fd)
