"""The command line's end of the control socket. Blocking: one request, one answer."""

import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from scalesocket.control.address import ControlError, SiteRefusedError
from scalesocket.control.messages import MAX_LINE, Answer, Request

TIMEOUT: Final = 75.0
"""Seconds to wait for the answer: longer than the server gives itself."""


def ask(paths: Sequence[Path], request: Request, timeout: float = TIMEOUT) -> Answer:
    """Ask the server that listens at one of `paths`.

    Raises ControlError when none does, it does not answer within `timeout` seconds, or its answer makes no sense; also
    when it answers with an error (SiteRefusedError: the file's).
    """
    with _connect(paths) as connection:
        connection.settimeout(timeout)
        try:
            connection.sendall(msgspec.json.encode(request) + b"\n")
            line = _read_line(connection)
        except TimeoutError as error:
            raise ControlError(f"the server did not answer within {timeout:.0f} s") from error
        except OSError as error:
            raise ControlError(f"the server went away ({error.strerror or error})") from error
    try:
        answer = msgspec.json.decode(line, type=Answer)
    except msgspec.DecodeError as error:
        raise ControlError(f"the server's answer cannot be read ({error})") from error
    if answer.error is not None:
        raise (SiteRefusedError if answer.is_site_wrong else ControlError)(answer.error)
    return answer


def find_server(paths: Sequence[Path]) -> int | None:
    """The process that listens where a server would open its control socket: at one of `paths` in the folder of the first."""
    for path in paths:
        if path.parent != paths[0].parent:
            break
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except OSError:
                continue
            return pid_behind(probe)
    return None


def pid_behind(connection: socket.socket) -> int:
    """The process that called `listen` for the socket at the other end."""
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(pid)


def _connect(paths: Sequence[Path]) -> socket.socket:
    for path in paths:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(5.0)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            connection.close()
        except OSError as error:
            connection.close()
            raise ControlError(f"{path}: {error.strerror or error}") from error
        else:
            return connection
    places = ", ".join(str(path) for path in paths) or "server.control is off"
    hint = "; if its server runs as another user, ask as that user" if paths else ""
    raise ControlError(f"no server runs this site (looked at: {places}{hint})")


def _read_line(connection: socket.socket) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        chunk = connection.recv(65536)
        line += chunk
        if not chunk or len(line) > MAX_LINE:
            raise ControlError("the server's answer is cut short" if not chunk else "the server's answer is too long")
    return bytes(line)
