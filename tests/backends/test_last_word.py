"""The last word of a node that has died: sent whole to any kind of engine, and given up soon if that does not answer."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from scalesocket.backends.spawner.last_word import TIMEOUT, send_last_word

WORD = b"words " * 2000


@contextmanager
def engine(sock: socket.socket, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Serve one connection in a thread until the block ends."""

    def run() -> None:
        with suppress(OSError), sock.accept()[0] as connection:
            connection.settimeout(5)
            serve(connection)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(10)
        sock.close()


def read_all(received: list[bytes]) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        while len(b"".join(received)) < len(WORD):
            received.append(connection.recv(4096))
            connection.sendall(b"+OK\r\n")
        assert not connection.recv(1)

    return serve


def test_all_of_it_is_sent_over_tcp() -> None:
    received: list[bytes] = []
    sock = socket.create_server(("127.0.0.1", 0))
    with engine(sock, read_all(received)):
        send_last_word(sock.getsockname(), WORD, is_tls=False, ca=None)

    assert b"".join(received) == WORD


def test_all_of_it_is_sent_to_a_unix_socket(tmp_path: Path) -> None:
    received: list[bytes] = []
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "socket"))
    sock.listen()
    with engine(sock, read_all(received)):
        send_last_word(str(tmp_path / "socket"), WORD, is_tls=False, ca=None)

    assert b"".join(received) == WORD


@pytest.mark.parametrize("is_trusted", [True, False])
def test_it_is_sent_over_tls_to_an_engine_whose_certificate_is_trusted(tmp_path: Path, is_trusted: bool) -> None:
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=e -addext subjectAltName=IP:127.0.0.1"
    certificate, key = tmp_path / "e.pem", tmp_path / "e.key"
    subprocess.run(["openssl", *words.split(), "-out", certificate, "-keyout", key], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    received: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            while len(b"".join(received)) < len(WORD):
                received.append(secured.recv(4096))
            secured.sendall(b"+OK\r\n")

    sock = socket.create_server(("127.0.0.1", 0))
    with engine(sock, serve):
        send_last_word(sock.getsockname(), WORD, is_tls=True, ca=str(certificate) if is_trusted else None)

    assert b"".join(received) == (WORD if is_trusted else b"")


def test_an_engine_that_is_away_or_silent_is_given_up_soon() -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    started = time.monotonic()
    send_last_word(silent.getsockname(), WORD, is_tls=False, ca=None)
    silent.close()
    send_last_word(("127.0.0.1", 1), WORD, is_tls=False, ca=None)

    assert time.monotonic() - started < 4 * TIMEOUT
