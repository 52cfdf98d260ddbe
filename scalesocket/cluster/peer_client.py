"""Connections to other nodes: hands clients over, and passes requests of operators on (preamble.py).

A hand-over needs a greeting first, which takes a round trip, and so does the connection itself. Therefore a few connections to
each node that was used lately are kept ready, with the greeting received.
"""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from scalesocket.backends.connection import describe as describe_os_error
from scalesocket.cluster.attempt import SILENCE, Attempt
from scalesocket.cluster.channels import Channel, greet, open_plain, open_tls, parse_numeric, start_plain
from scalesocket.cluster.handed import Handed, encode_handed
from scalesocket.cluster.preamble import MAX_PAYLOAD, MAX_RESPONSE, RESPONSE_HEAD, Answer, Kind, PreambleError, encode_preamble
from scalesocket.cluster.ready import MAX_READY, PeerError, ReadyChannels
from scalesocket.cluster.secured import SecuredStream
from scalesocket.cluster.sparse_log import SparseLog
from scalesocket.io.deadlines import Deadlines
from scalesocket.io.poller import Poller
from scalesocket.placement.stream import Stream

CONNECT_TIMEOUT: Final = 3.0
"""Seconds until a connection has its greeting."""
ANSWER_TIMEOUT: Final = 3.0
"""Seconds until the answer to a preamble."""
HINTS: Final[dict[int, str]] = {
    Answer.WRONG_SIGNATURE: " (does it have another secret?)",
    Answer.INVALID: " (does it run another version?)",
    Answer.TOO_OLD: " (does it run another version?)",
}
"""What to look at, by answer."""
TLS_HINT: Final = "either all nodes need cluster.tls or none, and certificates that the ca of the others has signed"
SHORTEST_PATIENCE: Final = 30.0
"""Seconds without an acknowledgement after which a connection ends, at least: the machine at the other end is gone."""


class RefusedError(PeerError):
    """A node runs, and has refused a request."""


class PeerClient:
    """Connects to the listeners of other nodes until `close`."""

    def __init__(self, secret: bytes, *, poller: Poller, tls: ssl.SSLContext | None = None, max_ready: int = MAX_READY) -> None:
        """`tls`: for listeners with TLS. `max_ready`: connections to one node that are kept ready."""
        self.tls = tls
        """May be replaced, for new connections."""
        self.results: Counter[str] = Counter()
        """Hand-overs by answer, in lower case."""
        self.seconds = 0.0
        """The time that they took, together."""
        self._secret = secret
        self._poller = poller
        self._log = SparseLog()
        self._ready = ReadyChannels(poller.loop, self._connect, max_ready)
        self._greetings: Deadlines[Channel] = Deadlines(poller.loop, lambda: CONNECT_TIMEOUT)
        self._answers: Deadlines[Channel] = Deadlines(poller.loop, lambda: ANSWER_TIMEOUT)
        self._attempts: Deadlines[Attempt] = Deadlines(poller.loop, lambda: SILENCE)
        self._streams: set[SecuredStream] = set()

    def begin(self, address: str, handed: Handed, *, patience: float, done: Callable[[Stream | None], None]) -> Attempt | None:
        """Begin what `hand_over` does, and call `done` with the stream, or with None if `hand_over` has to go on.

        None: `hand_over` has to do all of it.
        """
        where = parse_numeric(address) if self.tls is None else None
        payload = encode_handed(handed)
        if where is None or len(payload) > MAX_PAYLOAD[Kind.HAND_OVER]:
            return None
        channel = self._ready.take(address)
        is_ready = channel is not None
        self._ready.keep(address, has_missed=not is_ready)
        if channel is None:
            try:
                channel = start_plain(*where, self._poller)
            except OSError:
                return None

        patience = max(SHORTEST_PATIENCE, 2 * patience)
        return Attempt(channel, self._secret, payload, self._attempts, done, patience=patience, is_ready=is_ready)

    def count_taken(self, attempt: Attempt) -> None:
        """Count a client that was taken."""
        self._count("taken", attempt.started)

    async def hand_over(self, address: str, handed: Handed, *, patience: float, begun: Attempt | None = None) -> Stream | Answer:
        """Hand a client's connection over to the node at `address`, `host:port`.

        Return a stream for the client's bytes, which the caller owns, or why there is none. `patience`: seconds for which the
        owner may read nothing from the client. `begun`: go on with this.
        """
        started = time.monotonic() if begun is None else begun.started
        payload = encode_handed(handed)
        if len(payload) > MAX_PAYLOAD[Kind.HAND_OVER]:
            answer: Stream | Answer = Answer.TOO_LONG
        else:
            answer = await self._hand_over(address, payload, patience, begun)
        self._count(answer.name.lower() if isinstance(answer, Answer) else "taken", started)
        return answer

    def _count(self, result: str, started: float) -> None:
        self.results[result] += 1
        self.seconds += time.monotonic() - started

    def note_silent(self, address: str) -> None:
        """Count a hand-over that was cancelled because the room has another owner than the node at `address`, which is silent."""
        self.results[Answer.UNREACHABLE.name.lower()] += 1
        self._log.warn("node not reached", address, address=address, error="no answer, and the room has another owner")

    async def request(self, address: str, payload: bytes, *, timeout: float) -> bytes:
        """Pass a request of an operator to the node at `address`, and return the response. Raises PeerError."""
        async with answering_within(timeout, address):
            channel = await self.ask(address, Kind.REQUEST, payload)
            try:
                (size,) = RESPONSE_HEAD.unpack(await channel.read(RESPONSE_HEAD.size))
                if size > MAX_RESPONSE:
                    raise PeerError(f"{address}: the response is too long ({size} bytes)")
                return await channel.read(size)
            finally:
                channel.close()

    async def ask(self, address: str, kind: Kind, payload: bytes) -> Channel:
        """Send a request; return the connection, on which the response follows, and which the caller closes.

        Raises PeerError, OSError or EOFError; `answering_within` sets a deadline and makes PeerErrors of all.
        """
        if len(payload) > MAX_PAYLOAD[kind]:
            raise PeerError(f"{address}: the request is too long ({len(payload)} bytes)")
        try:
            channel = await self._connect(address)
        except PeerError as error:
            raise PeerError(f"{address}: {error}") from error
        try:
            channel.send(encode_preamble(self._secret, channel.nonce, kind, payload))
            (answer,) = await channel.read(1)
            if answer != Answer.TAKEN:
                raise RefusedError(f"{address}: {describe_answer(answer)}")
        except BaseException:
            channel.close()
            raise
        return channel

    def close(self) -> None:
        """Close what is ready, and cut TLS connections. Calls may repeat."""
        self._ready.close()
        for stream in tuple(self._streams):
            stream.cut()
        for deadlines in self._greetings, self._answers, self._attempts:
            deadlines.close()

    # --- One hand-over

    async def _hand_over(self, address: str, payload: bytes, patience: float, begun: Attempt | None) -> Stream | Answer:
        if begun is None:
            channel = self._ready.take(address)
            is_ready = channel is not None
            self._ready.keep(address, has_missed=not is_ready)
        else:
            channel, is_ready = begun.channel, begun.is_ready
        try:
            if channel is None or not (is_ready or channel.nonce):
                channel = await self._connect(address, channel)
            answer = await self._ask(channel, payload, is_sent=begun is not None and begun.is_asked)
            if answer is None and is_ready:  # it has just ended, and the listener has decided nothing
                channel.close()
                channel = await self._connect(address)
                answer = await self._ask(channel, payload)
            if answer is not Answer.TAKEN:
                channel.close()
                if answer in HINTS:  # an operator has to do something
                    self._log.warn("node not reached", address, address=address, error=describe_answer(answer))
                return answer or Answer.UNREACHABLE
            channel.set_patience(max(SHORTEST_PATIENCE, 2 * patience))
            return channel.detach()
        except (PeerError, OSError) as error:
            if channel is not None:
                channel.close()
            self._log.warn("node not reached", address, address=address, error=str(error))
            return Answer.UNREACHABLE
        except BaseException:
            if channel is not None:
                channel.close()
            raise

    async def _connect(self, address: str, begun: Channel | None = None) -> Channel:
        """Open a connection, or finish one that has `begun`. Raises PeerError."""
        try:
            if begun is not None:
                return await greet(begun, self._greetings)
            if self.tls is None and (where := parse_numeric(address)) is not None:
                return await greet(start_plain(*where, self._poller), self._greetings)
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await self._open(address)
        except TimeoutError:
            raise PeerError(f"no greeting within {CONNECT_TIMEOUT:g} s") from None
        except (EOFError, ConnectionResetError) as error:
            raise PeerError(f"{describe(error)} before its greeting ({TLS_HINT})") from error
        except (OSError, PreambleError) as error:
            raise PeerError(describe(error)) from error

    async def _ask(self, channel: Channel, payload: bytes, *, is_sent: bool = False) -> Answer | None:
        """Send a preamble, unless it `is_sent`, and return the answer; None if the connection has ended. Raises PeerError."""
        self._answers.start(channel)
        try:
            with suppress(ConnectionError):  # a listener that refuses may not read all of it
                if not is_sent:
                    channel.send(encode_preamble(self._secret, channel.nonce, Kind.HAND_OVER, payload))
            (answer,) = await channel.read(1)
        except TimeoutError:
            channel.close()
            raise PeerError(f"no answer within {ANSWER_TIMEOUT:g} s") from None
        except (OSError, EOFError):
            return None
        finally:
            self._answers.stop(channel)
        if answer not in Answer.__members__.values():
            channel.close()
            raise PeerError(f"the unknown answer {answer}")
        return Answer(answer)

    async def _open(self, address: str) -> Channel:
        """Connect and receive the greeting. Raises OSError, EOFError or PreambleError."""
        if self.tls is None:
            return await open_plain(address, self._poller)
        return await open_tls(address, self.tls, self._poller, self._streams)


@asynccontextmanager
async def answering_within(seconds: float, address: str) -> AsyncIterator[None]:
    """Bound the time for a node to answer, and raise PeerError for everything that fails in the block."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise PeerError(f"{address}: no response within {seconds:g} s") from None
    except (OSError, EOFError) as error:
        raise PeerError(f"{address}: {describe(error)}") from error


def describe_answer(answer: int) -> str:
    """Say what a node answers, and what to look at."""
    name = Answer(answer).name.lower().replace("_", " ") if answer in Answer.__members__.values() else str(answer)
    return f"the node answers {name}{HINTS.get(answer, '')}"


def describe(error: Exception) -> str:
    """Return the short text of an error."""
    if isinstance(error, EOFError):
        return "it has closed the connection"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    return describe_os_error(error)
