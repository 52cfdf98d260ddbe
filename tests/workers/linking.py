"""Links between two ends in one process."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from scalesocket.workers.link import Handlers, Link, open_link


@asynccontextmanager
async def open_pair(here: Handlers, there: Handlers) -> AsyncIterator[tuple[Link, Link]]:
    """The supervisor's end of a link to a worker, and the worker's."""
    one, other = socket.socketpair()
    async with open_link(one, here, peer="worker 1") as near, open_link(other, there, peer="the supervisor") as far:
        yield near, far
