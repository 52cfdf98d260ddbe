"""Backpressure from a room's clients to its backend: when the backend's output is read."""

import asyncio
from typing import Final, Protocol

from scalesocket.backends.backend import Backend

PACE_CHECK: Final = 1.0
"""Seconds after which a paced room must have made progress; else it is read, and `send_buffer` limits its clients."""


class Receivers(Protocol):
    """What a flow needs of the clients that receive the output (`edge.ports.RoomAudience`)."""

    @property
    def is_congested(self) -> bool:
        """Whether there are clients and all of them are above their high-water mark."""

    @property
    def is_waiting(self) -> bool:
        """Whether the room waits for a slow client."""

    @property
    def delivered(self) -> int:
        """A number that changes while any client's peer takes bytes."""

    def stop_waiting(self) -> None:
        """Stop waiting for slow clients."""


class Flow:
    """Decides for one room whether its backend is read (`edge.ports.OutputSource`).

    There are two reasons not to read it. *Paced*: all clients are above their high-water mark, so the backend is faster than
    the network and waits for the fastest client. *Waiting*: a client left more than `send_buffer` unsent, and its app's
    `slow_client` makes the room wait for it; the audience decides how long.
    """

    __slots__ = ("_backend", "_delivered", "_is_paced", "_pace_timer", "_receivers")

    def __init__(self, receivers: Receivers) -> None:
        """Read a backend as fast as `receivers` take its output."""
        self._receivers = receivers
        self._backend: Backend | None = None
        self._is_paced = False
        self._pace_timer: asyncio.TimerHandle | None = None
        self._delivered = 0

    @property
    def is_paused(self) -> bool:
        """Whether the backend must not be read now."""
        return self._is_paced or self._receivers.is_waiting

    @property
    def has_more(self) -> bool:
        """Whether the backend has written something that was not read yet."""
        return self._backend is not None and self._backend.output[1] > 0

    def begin(self, backend: Backend) -> None:
        """Read a new backend, unless clients still have full buffers from the last one."""
        self._backend = backend
        self.congestion_changed()
        self.waiting_changed()

    def detach(self) -> None:
        """Forget the backend, every reason to wait, and the timers: it is gone."""
        self._backend = None
        self._receivers.stop_waiting()
        self._set_paced(False)

    def congestion_changed(self) -> None:
        """Decide anew whether the backend is paced: a client joined, left, became congested or drained."""
        is_congested = self._receivers.is_congested
        if is_congested is not self._is_paced:
            self._set_paced(is_congested)

    def waiting_changed(self) -> None:
        """Read the backend or pause it: the audience began or ceased to wait for a slow client."""
        if self._backend is not None:
            if self.is_paused:
                self._backend.pause_reading()
            else:
                self._backend.resume_reading()

    def _set_paced(self, is_paced: bool) -> None:
        if self._pace_timer is not None:
            self._pace_timer.cancel()
            self._pace_timer = None
        self._is_paced = is_paced
        if is_paced:
            self._delivered = self._receivers.delivered
            self._pace_timer = asyncio.get_running_loop().call_later(PACE_CHECK, self._check_pace)
        self.waiting_changed()

    def _check_pace(self) -> None:
        """Stay paced while the network takes bytes from at least one client."""
        self._set_paced(self._receivers.delivered != self._delivered)
