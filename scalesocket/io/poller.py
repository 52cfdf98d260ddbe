"""The descriptors of all clients and all rooms, watched together.

An epoll set inside the loop's own: for the loop it is one descriptor. uvloop makes a handle for each that it watches, with four
system calls, and runs each callback in a context of its own. With this for pipes an echo over 50 rooms takes 7 % less processor
time, and a message in each of 1,000 rooms 15 % less; docs/performance.md has what it does for connections. What comes alone takes
one system call more, 1 us.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Final

EVENTS_A_TURN: Final = 64
"""Descriptors looked after in one turn of the loop; the kernel lets those come first that had no turn."""

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT


class Poller:
    """Calls back when a descriptor can be read or written, in one loop. Owns no descriptor but its own.

    The words are asyncio's. A descriptor must be removed before it is closed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch for `loop`, until `close`."""
        self.loop = loop
        self.turn = 0
        """Another number in each turn of the loop in which something came; what is written first in a turn need not wait."""
        self._set = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._set.fileno(), self._poll)

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `fd` has something to read, or its end was reached, until `remove_reader`."""
        if self._set.closed:
            return
        if fd in self._writers:
            self._set.modify(fd, _IN | _OUT)
        elif fd not in self._readers:
            self._set.register(fd, _IN)
        self._readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        """Call back for what `fd` has to read no more. Calls may repeat."""
        if self._readers.pop(fd, None) is not None and not self._set.closed:
            if fd in self._writers:
                self._set.modify(fd, _OUT)
            else:
                self._set.unregister(fd)

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `fd` takes more, or nothing ever again, until `remove_writer`."""
        if self._set.closed:
            return
        if fd in self._readers:
            self._set.modify(fd, _IN | _OUT)
        elif fd not in self._writers:
            self._set.register(fd, _OUT)
        self._writers[fd] = callback

    def remove_writer(self, fd: int) -> None:
        """Call back for what `fd` takes no more. Calls may repeat."""
        if self._writers.pop(fd, None) is not None and not self._set.closed:
            if fd in self._readers:
                self._set.modify(fd, _IN)
            else:
                self._set.unregister(fd)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._set.closed:
            return
        if not self.loop.is_closed():
            self.loop.remove_reader(self._set.fileno())
        self._set.close()
        self._readers.clear()
        self._writers.clear()

    def begin_turn(self) -> None:
        """Note that something has come which the poller does not watch."""
        self.turn += 1

    def _poll(self) -> None:
        """Call back for what can be read and written now. One that fails is a mistake of ours, and no other's."""
        self.begin_turn()
        readers, writers = self._readers, self._writers
        for fd, event in self._set.poll(0, EVENTS_A_TURN):
            # What was removed by a callback before it is not there any more. A number that was given to another descriptor
            # meanwhile costs that one a look that finds nothing.
            try:
                if event != _OUT and fd in readers:
                    readers[fd]()
                if event != _IN and fd in writers:
                    writers[fd]()
            except Exception as error:
                self.loop.call_exception_handler({"message": f"error in a callback for descriptor {fd}", "exception": error})
