"""The pipes of all rooms, watched together.

An epoll set inside the loop's own: for the loop it is one descriptor. uvloop makes a handle for each that it watches, with four
system calls, and runs each callback in a context of its own; with this an echo over 50 rooms takes 7 % less processor time, and a
message in each of 1,000 rooms 15 % less. A message that comes alone takes one system call more, 1 us.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Final

READS_A_TURN: Final = 64
"""Descriptors read in one turn of the loop; the kernel lets those come first that had no turn."""


class Readers:
    """Calls back when a descriptor can be read, in one loop. Owns no descriptor but its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch for `loop`, until `close`."""
        self._loop = loop
        self._set = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._set.fileno(), self._poll)

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `fd` has something to read, or its end was reached, until `remove`."""
        if self._set.closed:
            return
        self._set.register(fd, select.EPOLLIN)
        self._callbacks[fd] = callback

    def remove(self, fd: int) -> None:
        """Watch `fd` no more, which must not be closed yet. Calls may repeat."""
        if self._callbacks.pop(fd, None) is not None and not self._set.closed:
            self._set.unregister(fd)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._set.closed:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._set.fileno())
        self._set.close()

    def _poll(self) -> None:
        """Call back for what can be read now. One that fails is a mistake of ours, and no other room's."""
        for fd, _ in self._set.poll(0, READS_A_TURN):
            callback = self._callbacks.get(fd)
            if callback is None:  # removed by a callback before it
                continue
            try:
                callback()
            except Exception as error:
                self._loop.call_exception_handler({"message": f"error in {callback!r}", "exception": error})
