"""Accepting connections: as many as wait, and none too many."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from scalesocket.server.accept import MAX_ACCEPTS, Acceptor
from scalesocket.server.connections import Connections
from tests.conftest import capture_all_logs


class CountingSocket(socket.socket):
    """Counts the calls of `accept`."""

    calls = 0

    def _accept(self) -> Any:
        self.calls += 1
        return super()._accept()  # type: ignore[misc]


class Accepting(Acceptor):
    """Closes what it accepts."""

    def start_connection(self, fd: int, peer: object) -> None:
        os.close(fd)


@pytest.fixture
def sock() -> Iterator[CountingSocket]:
    with CountingSocket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        sock.setblocking(False)
        yield sock


@pytest.fixture
def acceptor(sock: CountingSocket) -> Accepting:
    readers: set[int] = set()
    connections = SimpleNamespace(
        poller=SimpleNamespace(add_reader=lambda fd, _: readers.add(fd), remove_reader=readers.discard, readers=readers),
        must_make_room=lambda: False,
        may_open=lambda _: True,
        is_short=False,
        first_reserved=1 << 20,
        paused=set(),
    )
    return Accepting(sock, cast(Connections, connections))


@pytest.mark.parametrize(
    ("waiting", "calls"),
    [(1, 1), (3, 3), (MAX_ACCEPTS + 1, MAX_ACCEPTS), (0, 1)],
    ids=["one", "several", "more than one iteration takes", "none, as another worker was faster"],
)
def test_accept_is_called_once_for_each_connection_that_waits(
    sock: CountingSocket, acceptor: Accepting, waiting: int, calls: int
) -> None:
    with ExitStack() as stack:
        for _ in range(waiting):
            stack.enter_context(socket.create_connection(sock.getsockname()))

        acceptor._accept()

    assert sock.calls == calls


def test_a_socket_that_the_supervisor_has_shut_down_is_left_without_a_warning(sock: CountingSocket, acceptor: Accepting) -> None:
    readers: set[int] = acceptor._connections.poller.readers  # type: ignore[attr-defined]
    assert readers == {sock.fileno()}
    sock.shutdown(socket.SHUT_RDWR)

    with capture_all_logs() as events:
        acceptor._accept()
        acceptor.stop()

    assert events == []
    assert readers == set()
