"""The fast path of a hand-over: one node without TLS, which takes the client at once.

It uses callbacks, since tasks and futures would take a fifth more CPU time. `PeerClient.hand_over` handles all other cases.
"""

import time
from collections.abc import Callable
from typing import Final

from scalesocket.cluster.channels import Channel
from scalesocket.cluster.preamble import Answer, Kind, encode_preamble
from scalesocket.io.deadlines import Deadlines
from scalesocket.placement.stream import Stream

SILENCE: Final = 0.25
"""Seconds without an answer of the owner after which the directory is asked whether there is another."""


class Attempt:
    """Asks a node to take a client (`placement.Begun`)."""

    __slots__ = ("_deadlines", "_done", "_patience", "_payload", "_secret", "channel", "is_asked", "is_ready", "started")

    def __init__(
        self,
        channel: Channel,
        secret: bytes,
        payload: bytes,
        deadlines: "Deadlines[Attempt]",
        done: Callable[[Stream | None], None],
        *,
        patience: float,
        is_ready: bool,
    ) -> None:
        """Ask by `channel`, which has its greeting if it `is_ready`. `patience`: seconds without an acknowledgement.

        `done` is called later, but not after `cancel`: with the stream, or None if the channel is to be used with waiting.
        """
        self.channel = channel
        self._secret = secret
        self._payload = payload
        self._deadlines = deadlines
        self._done: Callable[[Stream | None], None] | None = done
        self._patience = patience
        self.is_ready = is_ready
        """Whether the channel was open before, so that its end says nothing about the node."""
        self.is_asked = False
        """Whether the preamble was sent."""
        self.started = time.monotonic()
        channel.attempt = self
        deadlines.start(self)
        if is_ready:
            self._ask()

    def time_out(self) -> None:
        """The node is silent."""
        self._end(None)

    def cancel(self) -> None:
        """End it: the client has left."""
        self._done = None
        self._deadlines.stop(self)
        self.channel.attempt = None
        self.channel.close()

    def note_change(self) -> None:
        """Something has arrived, or the connection has ended."""
        channel = self.channel
        if channel.has_ended:
            self._end(None)
        elif not self.is_asked:
            if channel.take_greeting():
                self._ask()
            else:  # a part of it, or something else
                self._end(None)
        elif channel.take_if(Answer.TAKEN):
            try:
                channel.set_patience(self._patience)
                stream = channel.detach()
            except OSError:
                channel.close()
                stream = None
            self._end(stream)
        else:
            self._end(None)

    def _ask(self) -> None:
        self.is_asked = True
        self.channel.send(encode_preamble(self._secret, self.channel.nonce, Kind.HAND_OVER, self._payload))

    def _end(self, stream: Stream | None) -> None:
        self._deadlines.stop(self)
        if stream is None:
            self.channel.wait_from_now()
        done, self._done = self._done, None
        if done is not None:
            done(stream)
