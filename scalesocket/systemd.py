"""The protocol with systemd: sd_notify(3) reports states to it, sd_listen_fds(3) receives sockets. Without systemd, no effect."""

import os
import socket
import time
from collections.abc import Mapping
from typing import Final

from scalesocket.errors import ScalesocketError

FIRST_FD: Final = 3
"""The first descriptor systemd passes (SD_LISTEN_FDS_START)."""


class InheritedSocketError(ScalesocketError):
    """A descriptor named by `fd://N` is not a listening socket."""


def notify_ready() -> bool:
    """Report that the service is ready, or that a reload is over. Return False without a NOTIFY_SOCKET, or if sending fails."""
    return notify("READY=1")


def notify_reloading() -> bool:
    """Report that a reload begins; `notify_ready` must follow. `Type=notify-reload` needs the time, of CLOCK_MONOTONIC."""
    return notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def notify_stopping() -> bool:
    """Report that the shutdown has begun."""
    return notify("STOPPING=1")


def notify_status(text: str) -> bool:
    """Set the status line of `systemctl status`."""
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
    """Return the descriptors that systemd passed to process `pid`; empty if LISTEN_PID names another, or none were passed."""
    try:
        if int(environment["LISTEN_PID"]) != pid:
            return ()
        return tuple(range(FIRST_FD, FIRST_FD + int(environment["LISTEN_FDS"])))
    except (KeyError, ValueError):
        return ()


def take_listen_fds() -> tuple[int, ...]:
    """Return the descriptors that systemd passed to this process. Children inherit neither them nor their variables."""
    fds = parse_listen_fds(os.environ, os.getpid())
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds


def adopt_listener(fd: int) -> socket.socket:
    """Return a duplicate of the listening socket `fd://N`; closing it leaves the original for a later reload.

    Raises InheritedSocketError if descriptor N is not open or not a listening stream socket.
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
