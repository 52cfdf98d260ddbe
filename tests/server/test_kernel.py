"""What the kernel says of sockets."""

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from scalesocket.server.kernel import count_unaccepted


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_connections_that_wait_to_be_accepted_are_counted(address: str) -> None:
    with ExitStack() as stack:
        sock = stack.enter_context(
            socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        )
        assert count_unaccepted(sock) is None
        for _ in range(3):
            stack.enter_context(socket.create_connection(sock.getsockname()[:2]))

        assert count_unaccepted(sock) == 3
        stack.enter_context(sock.accept()[0])
        assert count_unaccepted(sock) == 2


def test_how_many_wait_at_a_unix_socket_is_not_known(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as client:
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
        client.connect(str(tmp_path / "socket"))

        assert count_unaccepted(sock) is None
