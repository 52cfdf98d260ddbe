"""How long Hypercorn keeps an idle connection: until its server stops, its keep-alive time is over or the peer has left."""

from hypercorn.asyncio.worker_context import EventWrapper


class IdleEnd(EventWrapper):
    """What Hypercorn waits for on an idle connection, in the place of the event that the server stops.

    That has happened when `is_set` says so. Whoever waits is also woken when the peer has left: otherwise each connection that a
    peer closed right after its request would keep its descriptor for the whole keep-alive time.
    """

    def __init__(self, stopped: EventWrapper) -> None:
        """`stopped`: set when the server stops; then `set` must be called as well."""
        super().__init__()
        self._stopped = stopped
        if stopped.is_set():
            self._event.set()

    def is_set(self) -> bool:
        """Whether the server stops."""
        return self._stopped.is_set()


async def stop_idling(event: object) -> None:
    """Wake whoever waits for an `IdleEnd`. A stock Hypercorn has events of its own, which are left alone."""
    if isinstance(event, IdleEnd):
        await event.set()
