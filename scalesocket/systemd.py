"""What systemd and a service tell each other: sd_notify(3) one way, sd_listen_fds(3) the other. Without systemd, nothing."""

import os
import socket
import time
from collections.abc import Mapping
from typing import Final

from scalesocket.errors import ScalesocketError

FIRST_FD: Final = 3
"""The first descriptor systemd passes (SD_LISTEN_FDS_START)."""


class InheritedSocketError(ScalesocketError):
    """A descriptor named by `fd://N` is not a socket that listens."""


def notify_ready() -> bool:
    """Say that the service serves, or that a reload is over. False when nobody asked (no NOTIFY_SOCKET) or nobody listens."""
    return notify("READY=1")


def notify_reloading() -> bool:
    """Say that a reload begins; `notify_ready` must follow. The time is what `Type=notify-reload` compares (CLOCK_MONOTONIC)."""
    return notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def notify_stopping() -> bool:
    """Say that shutdown began."""
    return notify("STOPPING=1")


def notify_status(text: str) -> bool:
    """Give `systemctl status` one line to show."""
    return notify("STATUS=" + text.replace("\n", " "))


def notify(message: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send `message` to the socket named by NOTIFY_SOCKET (a path, or `@name` in the abstract namespace), without waiting."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            return False
    return True


def parse_listen_fds(environment: Mapping[str, str], pid: int) -> tuple[int, ...]:
    """The descriptors systemd passed to the process `pid`; empty when LISTEN_PID names another, or nothing was passed."""
    try:
        if int(environment["LISTEN_PID"]) != pid:
            return ()
        return tuple(range(FIRST_FD, FIRST_FD + int(environment["LISTEN_FDS"])))
    except (KeyError, ValueError):
        return ()


def take_listen_fds() -> tuple[int, ...]:
    """The descriptors systemd passed to this process, from now on closed in children, who must not see the variables either."""
    fds = parse_listen_fds(os.environ, os.getpid())
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds


def adopt_listener(fd: int) -> socket.socket:
    """The listening socket behind `fd://N`, as a duplicate: closing it leaves the descriptor for a later reload.

    Raises InheritedSocketError when descriptor N is not open, not a stream socket, or does not listen.
    """
    try:
        duplicate = os.dup(fd)
    except OSError as error:
        raise InheritedSocketError(f"fd://{fd}: not open ({error.strerror})") from error
    try:
        sock = socket.socket(fileno=duplicate)
    except OSError as error:
        os.close(duplicate)
        raise InheritedSocketError(f"fd://{fd}: not a socket") from error
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise InheritedSocketError(f"fd://{fd}: not a listening stream socket (with systemd: a .socket unit with ListenStream=)")
    sock.setblocking(False)
    return sock
