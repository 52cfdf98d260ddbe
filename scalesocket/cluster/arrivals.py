"""A connection of another node, from its first byte to its answer (preamble.py)."""

import asyncio
import secrets
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, cast

import structlog

from scalesocket.cluster.handed import Handed, decode_handed
from scalesocket.cluster.outgoing_stream import BlockSource, OutgoingStream
from scalesocket.cluster.preamble import (
    HEAD_SIZE,
    MAX_RESPONSE,
    NONCE_SIZE,
    RESPONSE_HEAD,
    Answer,
    Head,
    Kind,
    check_head,
    encode_greeting,
    parse_head,
)
from scalesocket.cluster.secured import SecuredStream
from scalesocket.cluster.sparse_log import SparseLog
from scalesocket.io.deadlines import Deadlines
from scalesocket.io.poller import Poller
from scalesocket.io.transport import SocketTransport

log = structlog.get_logger("cluster")

IDLE_TIMEOUT: Final = 15.0
"""Seconds until the first byte of a preamble. Callers keep a few connections without one (peer_client.py)."""
PREAMBLE_TIMEOUT: Final = 5.0
"""Seconds from the first byte to the last; also for a TLS handshake."""
LINGER_TIMEOUT: Final = 1.0
"""Seconds for which a refused caller may read the answer and end the connection. Closing with unread input sends a reset, which
can discard the answer."""
RESPONSE_TIMEOUT: Final = 30.0
"""Seconds until the response to a request is ready, and again until it is sent."""
MAX_REQUESTS: Final = 64
"""Requests that are answered at the same time."""
MAX_STREAMS: Final = 32
"""Responses that go on at the same time."""
TAKEN: Final = bytes((Answer.TAKEN,))


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerHandlers:
    """What a node does with what other nodes send it."""

    decide: Callable[[Handed], Answer]
    """Decides on a connection that is handed over."""
    take: Callable[[Handed, int, bytes], None]
    """Takes ownership of the descriptor of one for which `decide` has returned TAKEN: a stream of the client's bytes. The bytes,
    if any, have to be written first: one write with the response to the client is cheaper than two."""
    respond: Callable[[bytes], Awaitable[bytes]]
    """Answers a request of an operator. Raises InvalidRequestError."""
    open_stream: Callable[[bytes], Awaitable[BlockSource]]
    """Answers one whose response goes on. Raises InvalidRequestError."""


class InvalidRequestError(Exception):
    """A request that this node does not know."""


class Arrivals:
    """The connections of other nodes that are not handed on yet, and what they share."""

    def __init__(self, secret: bytes, handlers: PeerHandlers, poller: Poller) -> None:
        self.secret = secret
        self.handlers = handlers
        self.poller = poller
        self.results: Counter[str] = Counter()
        """Connections by what became of them: an answer in lower case, `request`, `stream`, `late`, `left`, `cut` or `no_tls`."""
        self.waiting: dict[PeerConnection, None] = {}
        """Connections without a complete preamble, and refused ones, the oldest first."""
        loop = poller.loop
        self.idle: Deadlines[PeerConnection] = Deadlines(loop, lambda: IDLE_TIMEOUT)
        self.begun: Deadlines[PeerConnection] = Deadlines(loop, lambda: PREAMBLE_TIMEOUT)
        self.refused: Deadlines[PeerConnection] = Deadlines(loop, lambda: LINGER_TIMEOUT)
        self.requests: set[asyncio.Task[None]] = set()
        self.streaming: set[asyncio.Task[None]] = set()
        """Requests whose responses go on."""
        self._streams: set[SecuredStream] = set()
        self._log = SparseLog(poller.loop.time)

    def cut_all(self) -> None:
        """Cut everything that is not handed on yet, and all TLS connections."""
        for task in self.requests | self.streaming:
            task.cancel()
        for connection in tuple(self.waiting):
            connection.cut("cut")
        for stream in tuple(self._streams):
            stream.cut()
        for deadlines in self.idle, self.begun, self.refused:
            deadlines.close()

    def hand_on(self, transport: asyncio.Transport, handed: Handed) -> None:
        """Give a connection that was taken to the owner of its room, which answers."""
        if not isinstance(transport, SocketTransport):
            try:
                ours, theirs = socket.socketpair()
            except OSError:  # no descriptor is left: the caller looks for the owner again
                transport.abort()
                return
            transport.write(TAKEN)
            self._streams.add(SecuredStream(transport, ours.detach(), b"", poller=self.poller, on_lost=self._streams.discard))
            self.handlers.take(handed, theirs.detach(), b"")
        elif transport.get_write_buffer_size():
            transport.abort()  # the kernel did not take the greeting
        else:
            self.handlers.take(handed, transport.detach(), TAKEN)

    def warn(self, event: str, peer: object, **more: object) -> None:
        """Log a fault of a peer, at most once a minute."""
        self._log.warn(event, peer=peer[0] if isinstance(peer, tuple) else peer, **more)


class PeerConnection(asyncio.Protocol):
    """A connection of another node, until its preamble is complete."""

    def __init__(self, arrivals: Arrivals, peer: object) -> None:
        """`peer`: the address of the other end."""
        self._arrivals = arrivals
        self._peer = peer
        self._loop = arrivals.poller.loop
        self._nonce = secrets.token_bytes(NONCE_SIZE)
        self._received = bytearray()
        self._head: Head | None = None
        self._is_over = False
        """Whether it was answered, or is lost. Bytes that still arrive are dropped."""
        self._response: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        """Ends a response that is not read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the greeting, and start the clock."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's TLS has a class of its own
        self._arrivals.waiting[self] = None
        self._arrivals.idle.start(self)
        self._transport.write(encode_greeting(self._nonce))

    def data_received(self, chunk: bytes) -> None:
        """Add to the preamble."""
        if self._is_over:
            return
        if not self._received and self._head is None:
            self._arrivals.idle.stop(self)
            self._arrivals.begun.start(self)
        self._received += chunk
        if self._head is None:
            if len(self._received) < HEAD_SIZE:
                return
            self._head = parse_head(bytes(self._received[:HEAD_SIZE]))
            refusal = check_head(self._head, self._arrivals.secret, self._nonce)
            if refusal is not None:
                self._answer(refusal)
                return
            del self._received[:HEAD_SIZE]
        if len(self._received) >= self._head.size:
            self._complete(self._head)

    def eof_received(self) -> bool:
        """End: no answer is due."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget()
        if self._response is not None:
            self._response.cancel()
        if not self._is_over:
            self._is_over = True
            self._arrivals.results["left"] += 1

    def time_out(self) -> None:
        """Abort the connection: it takes too long."""
        self.cut("late")

    def cut(self, result: str) -> None:
        """Abort the connection."""
        if not self._is_over:
            self._is_over = True
            self._arrivals.results[result] += 1
        self._forget()
        self._transport.abort()

    def _forget(self) -> None:
        arrivals = self._arrivals
        for deadlines in arrivals.idle, arrivals.begun, arrivals.refused:
            deadlines.stop(self)
        if self._timer is not None:
            self._timer.cancel()
        arrivals.waiting.pop(self, None)

    def _complete(self, head: Head) -> None:
        """Decide on a signed preamble."""
        payload, more = bytes(self._received[: head.size]), self._received[head.size :]
        if more or not head.is_of(payload):  # the caller waits for the answer before it sends more
            self._answer(Answer.INVALID)
        elif head.kind == Kind.HAND_OVER:
            handed = decode_handed(payload)
            answer = Answer.INVALID if handed is None else self._arrivals.handlers.decide(handed)
            self._answer(answer, handed)
        elif head.kind == Kind.STREAM:
            if len(self._arrivals.streaming) >= MAX_STREAMS:
                self._answer(Answer.BUSY)
            else:
                self._stream(payload)
        elif len(self._arrivals.requests) >= MAX_REQUESTS:
            self._answer(Answer.BUSY)
        else:
            self._respond(payload)

    def _answer(self, answer: Answer, handed: Handed | None = None) -> None:
        """Write the answer, and hand the connection on or close it."""
        arrivals, transport = self._arrivals, self._transport
        self._is_over = True
        self._forget()
        arrivals.results[answer.name.lower()] += 1
        if answer is Answer.WRONG_SIGNATURE:
            hint = "another secret there, or not a node of this cluster"
            arrivals.warn("wrong signature of a node", self._peer, count=arrivals.results["wrong_signature"], hint=hint)
        elif answer in {Answer.INVALID, Answer.TOO_OLD, Answer.TOO_LONG}:
            arrivals.warn("wrong message of a node", self._peer, answer=answer.name.lower(), hint="does it run another version?")
        if transport.is_closing():
            return
        if answer is Answer.TAKEN and handed is not None:
            arrivals.hand_on(transport, handed)
        else:
            transport.write(bytes((answer,)))
            self._linger()

    def _linger(self) -> None:
        """Drop what arrives, until the caller ends the connection."""
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._arrivals.waiting[self] = None
        self._arrivals.refused.start(self)

    def _respond(self, payload: bytes) -> None:
        self._is_over = True
        self._forget()
        self._arrivals.results["request"] += 1
        self._response = self._loop.create_task(self._send_response(payload), name="request of a node")
        self._arrivals.requests.add(self._response)
        self._response.add_done_callback(self._arrivals.requests.discard)

    async def _send_response(self, payload: bytes) -> None:
        try:
            async with asyncio.timeout(RESPONSE_TIMEOUT):
                response = await self._arrivals.handlers.respond(payload)
            if len(response) > MAX_RESPONSE:
                raise ValueError(f"a response of {len(response)} bytes")
            self._transport.write(bytes((Answer.TAKEN,)) + RESPONSE_HEAD.pack(len(response)) + response)
            self._timer = self._loop.call_later(RESPONSE_TIMEOUT, self._transport.abort)
            self._transport.close()
        except InvalidRequestError:
            self._answer(Answer.INVALID)
        except Exception:
            log.exception("answering a node failed")
            self._transport.abort()
        except BaseException:
            self._transport.abort()
            raise

    def _stream(self, payload: bytes) -> None:
        """Send a response that goes on. This protocol has nothing more to do, unless the request is invalid."""
        self._is_over = True
        self._forget()
        self._arrivals.results["stream"] += 1
        stream = OutgoingStream(self._transport)
        task = self._loop.create_task(self._send_stream(stream, payload), name="stream to a node")
        stream.begin(task)
        self._arrivals.streaming.add(task)
        task.add_done_callback(self._arrivals.streaming.discard)

    async def _send_stream(self, stream: OutgoingStream, payload: bytes) -> None:
        try:
            await stream.run(lambda: self._arrivals.handlers.open_stream(payload))
        except InvalidRequestError:
            stream.stop_watching()
            self._transport.set_protocol(self)
            self._answer(Answer.INVALID)
        except Exception:
            log.exception("stream to a node failed")
            self._transport.abort()
        except BaseException:
            self._transport.abort()
            raise
