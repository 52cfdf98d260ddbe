"""Connections that arrive at a listening socket while it is being closed."""

import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from scalesocket.server.addresses import address_of_socket
from scalesocket.server.bind import stop_arrivals
from scalesocket.server.late_connections import close_listener
from scalesocket.server.listen import Listener, identify


def listen_tcp(_: Path) -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def listen_unix(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(folder / "one.sock"))
    sock.listen()
    return sock


@pytest.mark.parametrize("listen", [listen_tcp, listen_unix])
def test_those_who_have_connected_are_served_and_nobody_else_connects(
    tmp_path: Path, listen: Callable[[Path], socket.socket]
) -> None:
    with ExitStack() as stack:
        sock = listen(tmp_path)
        sock.setblocking(False)
        duplicate = stack.enter_context(sock.dup())  # of a process that is stopped
        client = stack.enter_context(socket.socket(sock.family))
        client.connect(sock.getsockname())
        late = stack.enter_context(socket.socket(sock.family))
        late.settimeout(0.1)
        address = address_of_socket(sock, fd=None)
        listener = Listener(address, sock, identify(address), is_inherited=False)
        name = sock.getsockname()

        stop_arrivals(sock)
        with pytest.raises((TimeoutError, ConnectionRefusedError)):
            late.connect(name)
        (accepted,) = close_listener(listener)

        with accepted:
            client.sendall(b"hello")
            assert accepted.recv(5) == b"hello"
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            stack.enter_context(socket.socket(duplicate.family)).connect(name)
        assert not (tmp_path / "one.sock").exists()


def test_a_socket_of_another_program_stays_open(tmp_path: Path) -> None:
    with listen_tcp(tmp_path) as theirs, socket.socket() as client:
        ours = theirs.dup()
        ours.setblocking(False)

        assert list(close_listener(Listener(address_of_socket(ours, fd=None), ours, None, is_inherited=True))) == []

        client.connect(theirs.getsockname())
        assert ours.fileno() == -1
