"""Notifications to systemd, and sockets from it."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from scalesocket.systemd import (
    InheritedSocketError,
    adopt_listener,
    notify_ready,
    notify_reloading,
    notify_stopping,
    parse_listen_fds,
    take_listen_fds,
)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The notification socket of systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(1.0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def test_ready_and_stopping_are_reported(manager: socket.socket) -> None:
    assert notify_ready()
    assert notify_stopping()

    assert manager.recv(1000) == b"READY=1"
    assert manager.recv(1000) == b"STOPPING=1"


def test_reloading_names_the_monotonic_time(manager: socket.socket) -> None:
    assert notify_reloading()

    first, _, second = manager.recv(1000).partition(b"\n")
    assert first == b"RELOADING=1"
    assert second.startswith(b"MONOTONIC_USEC=")
    assert int(second.partition(b"=")[2]) > 0


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify_ready()

    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not notify_ready()


@pytest.mark.parametrize(
    ("environment", "fds"),
    [
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, (3, 4)),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "2"}, ()),
        ({"LISTEN_FDS": "2"}, ()),
        ({"LISTEN_PID": "7"}, ()),
        ({"LISTEN_PID": "seven", "LISTEN_FDS": "2"}, ()),
    ],
)
def test_passed_descriptors_are_for_the_process_they_name(environment: dict[str, str], fds: tuple[int, ...]) -> None:
    assert parse_listen_fds(environment, pid=7) == fds


def test_children_do_not_inherit_passed_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "0")
    monkeypatch.setenv("LISTEN_FDNAMES", "")

    assert take_listen_fds() == ()
    assert not {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} & os.environ.keys()


def test_an_inherited_listener_is_adopted_as_a_duplicate() -> None:
    with socket.create_server(("127.0.0.1", 0)) as original:
        adopted = adopt_listener(original.fileno())
        assert adopted.getsockname() == original.getsockname()
        adopted.close()

        socket.create_connection(original.getsockname(), timeout=1.0).close()


def test_a_descriptor_that_is_not_a_listener_is_refused() -> None:
    with socket.socket() as idle, Path(os.devnull).open() as file:
        for fd, why in ((idle.fileno(), "not a listening"), (file.fileno(), "not a socket"), (999_999, "not open")):
            with pytest.raises(InheritedSocketError, match=why):
                adopt_listener(fd)
