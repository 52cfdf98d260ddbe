"""The link between the supervisor and one worker: calls with an answer, and notes without one, in both directions.

A message is an instance of a `msgspec.Struct`. The name of its class chooses the handler at the other end. On the wire each frame
is a length (u32, big-endian) and msgpack: an envelope, which holds the message as msgpack of its own.

`Handlers.add(Ping, answer_ping)` says who answers; `await link.call(Ping(), Pong, timeout=1)` asks.
"""

import asyncio
import inspect
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Final, TypeVar, cast

import msgspec
import structlog

from scalesocket.config.units import MiB
from scalesocket.errors import ScalesocketError

MAX_FRAME: Final = 64 * MiB
"""Bytes of the longest frame. A longer message is refused where it is sent; a longer frame ends the link."""
MAX_UNSENT: Final = 128 * MiB
"""Unsent bytes of a link above which it takes no more messages: the peer does not read."""
MAX_CALLS: Final = 1024
"""Calls that may wait for their answers at the same time, and handlers that may run."""
CALL_TIMEOUT: Final = 10.0
"""Seconds to wait for an answer, unless the call says otherwise."""

_LENGTH: Final = struct.Struct("!I")

log = structlog.get_logger("link")

Message = TypeVar("Message", bound=msgspec.Struct)
Result = TypeVar("Result")


class LinkError(ScalesocketError):
    """A call that has no result: the peer's handler raised a ScalesocketError, whose text this is, or failed.

    `kind`: the name of that exception's class.
    """

    def __init__(self, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.kind = kind


class LinkBusyError(LinkError):
    """The link takes no more messages now: the peer does not read, or too many calls wait. Nothing was sent."""


class LinkTimeoutError(LinkError):
    """The peer did not answer in time. It may have done what it was asked, or may still do it."""


class LinkLostError(LinkError):
    """The peer has ended, or the link was closed. It may have done what it was asked."""


class Envelope(msgspec.Struct, array_like=True, frozen=True):
    """What a frame holds."""

    call: int
    """Number of a call, for its answer; 0 for a note."""
    name: str
    """The class of the message; empty for an answer; of the exception for an error."""
    body: msgspec.Raw = msgspec.Raw(b"\xc0")
    """The message or the result, as msgpack."""
    error: str | None = None
    """Why there is no result."""
    is_answer: bool = False


class Handlers:
    """What a peer may ask: one function for each class of messages."""

    def __init__(self) -> None:
        self._by_name: dict[str, Callable[[msgspec.Raw], object]] = {}

    def add(self, message: type[Message], handle: Callable[[Message], Awaitable[object] | object]) -> None:
        """Call `handle` for each message of this class. Its result is the answer to a call.

        A plain function runs at once, in the order in which messages arrive. A coroutine function starts in that order, in a task
        of its own, which is cancelled when the link ends.
        """
        decoder = msgspec.msgpack.Decoder(message)
        assert message.__name__ not in self._by_name, f"{message.__name__} has a handler already"
        self._by_name[message.__name__] = lambda body: handle(decoder.decode(body))

    def handle(self, name: str, body: msgspec.Raw) -> object:
        """Pass a message on. Raises LinkError if it has no handler."""
        if (handle := self._by_name.get(name)) is None:
            raise LinkError(f"there is no handler for {name}")
        return handle(body)


class Link(asyncio.Protocol):
    """One end of the link. `async with open_link(…)` makes one."""

    def __init__(self, handlers: Handlers, *, peer: str) -> None:
        """Serve the peer's messages with `handlers`. `peer`: what the log and errors call the other end."""
        self.handlers = handlers
        self.peer = peer
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._has_begun = False
        """Whether messages are handled."""
        self._last_call = 0
        self._calls: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Envelope)
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done when the peer has ended, or the link was closed."""

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def call(self, message: msgspec.Struct, result: type[Result], *, timeout: float | None = CALL_TIMEOUT) -> Result:
        """Send a message and return the answer, which is decoded as `result`.

        Raises LinkError if the handler raised one or failed, or if the answer is of another type; LinkBusyError, LinkTimeoutError
        after `timeout` seconds (None: a link to a peer that does not answer pings ends), and LinkLostError. Cancelling the call
        does not cancel the handler.
        """
        if len(self._calls) >= MAX_CALLS:
            raise LinkBusyError(f"{self.peer} is busy: {MAX_CALLS} calls wait for answers")
        self._last_call += 1
        number = self._last_call
        self._send(Envelope(number, type(message).__name__, self._encode(message)))
        answer = self._calls[number] = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                return msgspec.msgpack.decode(await answer, type=result)
        except TimeoutError as error:
            raise LinkTimeoutError(f"{self.peer} did not answer within {timeout:g} s") from error
        except msgspec.ValidationError as error:
            raise LinkError(f"{self.peer} gave an invalid answer to {type(message).__name__} ({error})") from error
        finally:
            del self._calls[number]

    def notify(self, message: msgspec.Struct) -> bool:
        """Send a message that has no answer. Return False if the link is lost or takes no more."""
        try:
            self._send(Envelope(0, type(message).__name__, self._encode(message)))
        except (LinkBusyError, LinkLostError):
            return False
        return True

    def close(self) -> None:
        """End the link. All pending calls fail, all running handlers are cancelled. Calls may repeat."""
        if self._transport is not None:
            self._transport.abort()
        self._end()

    # --- Callbacks of the transport (asyncio.Protocol)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has its methods, not its base class

    def data_received(self, data: bytes) -> None:
        """Handle the frames that are complete."""
        self._received += data
        if self._has_begun:
            self._handle_frames()

    def begin(self) -> None:
        """Handle what has arrived: not before the caller of `open_link` has the link, which its handlers may use."""
        self._has_begun = True
        if not self.lost.done():
            self._handle_frames()

    def _handle_frames(self) -> None:
        received, at = self._received, 0
        try:
            while len(received) >= at + _LENGTH.size:
                (size,) = _LENGTH.unpack_from(received, at)
                if size > MAX_FRAME:
                    raise msgspec.DecodeError(f"a frame of {size} bytes")
                if len(received) < at + _LENGTH.size + size:
                    break
                body = bytes(received[at + _LENGTH.size : at + _LENGTH.size + size])
                at += _LENGTH.size + size
                self._take(self._decoder.decode(body))
        except msgspec.DecodeError as error:
            log.error("invalid frame on a link", peer=self.peer, error=str(error))
            self.close()
        finally:
            del received[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits for the peer."""
        self._end()

    # --- Sending and handling

    def _encode(self, message: object) -> msgspec.Raw:
        body = self._encoder.encode(message)
        if len(body) > MAX_FRAME - 4096:
            raise LinkError(f"a {type(message).__name__} of {len(body)} bytes is too long for a link")
        return msgspec.Raw(body)

    def _send(self, envelope: Envelope) -> None:
        if not self.is_open:
            raise LinkLostError(f"{self.peer} has ended")
        assert self._transport is not None
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            raise LinkBusyError(f"{self.peer} does not read")
        frame = self._encoder.encode(envelope)
        self._transport.write(_LENGTH.pack(len(frame)) + frame)

    def _take(self, envelope: Envelope) -> None:
        if envelope.is_answer:
            answer = self._calls.get(envelope.call)
            if answer is None or answer.done():  # it came too late
                return
            if envelope.error is not None:
                answer.set_exception(LinkError(envelope.error, envelope.name))
            else:
                answer.set_result(envelope.body)
            return
        try:
            if len(self._tasks) >= MAX_CALLS:
                raise LinkError(f"busy: {MAX_CALLS} calls are being handled")
            result = self.handlers.handle(envelope.name, envelope.body)
        except Exception as error:
            self._answer_error(envelope, error)
            return
        if inspect.iscoroutine(result):
            task = self._loop.create_task(self._finish(envelope, result), name=f"answer {envelope.name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._answer(envelope, result)

    async def _finish(self, envelope: Envelope, handling: Coroutine[object, object, object]) -> None:
        try:
            result = await handling
        except Exception as error:
            self._answer_error(envelope, error)
        else:
            self._answer(envelope, result)

    def _answer(self, envelope: Envelope, result: object) -> None:
        if envelope.call:
            try:
                self._reply(Envelope(envelope.call, "", self._encode(result), is_answer=True))
            except Exception as error:  # too long, or nothing that msgpack can carry
                self._answer_error(envelope, error)

    def _answer_error(self, envelope: Envelope, error: Exception) -> None:
        text = str(error)
        if not isinstance(error, ScalesocketError):
            log.error("handling a message failed", peer=self.peer, message=envelope.name, exc_info=error)
            text = f"{envelope.name} failed ({type(error).__name__}: {error})"
        elif not envelope.call:
            log.error("message refused", peer=self.peer, message=envelope.name, error=text)
        if envelope.call:
            self._reply(Envelope(envelope.call, type(error).__name__, error=text, is_answer=True))

    def _reply(self, envelope: Envelope) -> None:
        """Send an answer. It is dropped if the peer has ended; if the peer does not read, its call times out."""
        try:
            self._send(envelope)
        except LinkLostError:
            return
        except LinkBusyError:
            log.error("answer dropped: the peer does not read", peer=self.peer)

    def _end(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(LinkLostError(f"{self.peer} has ended"))
        for task in tuple(self._tasks):
            task.cancel()


@asynccontextmanager
async def open_link(sock: socket.socket, handlers: Handlers, *, peer: str) -> AsyncIterator[Link]:
    """Open the link at one end of a socket pair, a stream, until the block ends. Takes ownership of `sock`."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    _, link = await loop.create_unix_connection(lambda: Link(handlers, peer=peer), sock=sock)
    loop.call_soon(link.begin)
    try:
        yield link
    finally:
        link.close()
