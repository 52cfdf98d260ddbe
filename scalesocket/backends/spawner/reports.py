"""Reports to the gateway, which wait here while it does not read them: the spawner never waits for the gateway."""

import os
import select
import socket
from collections import deque

from scalesocket.backends.spawner.protocol import encode


class Reports:
    """Reports that were not sent yet: at most three for each child, and one for each deadline."""

    def __init__(self, gateway: socket.socket, poll: select.epoll) -> None:
        """`poll` has `gateway`, for its requests. While reports wait it also says when the gateway has read some."""
        self.gateway = gateway
        self.poll = poll
        self.waiting: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self.is_blocked = False

    def add(self, report: dict[str, object], fds: tuple[int, ...] = ()) -> None:
        """Send a report, now or as soon as the gateway reads. Closes the descriptors, then."""
        self.waiting.append((encode(report), fds))
        if not self.is_blocked:
            self.send()

    def send(self) -> None:
        """Send what the kernel takes."""
        while self.waiting:
            packet, fds = self.waiting[0]
            try:
                socket.send_fds(self.gateway, [packet], fds, socket.MSG_DONTWAIT)
            except BlockingIOError:
                self.watch(is_blocked=True)
                return
            except (BrokenPipeError, ConnectionResetError):
                pass  # the gateway has ended, which the next request shows
            self.waiting.popleft()
            for fd in fds:
                os.close(fd)
        self.watch(is_blocked=False)

    def watch(self, *, is_blocked: bool) -> None:
        """Wait for the gateway to read, or no more."""
        if is_blocked != self.is_blocked:
            self.is_blocked = is_blocked
            self.poll.modify(self.gateway, select.EPOLLIN | (select.EPOLLOUT if is_blocked else 0))
