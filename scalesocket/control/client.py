"""The client's end of the control socket, for the command line. Blocking: one request and its answer per connection."""

import select
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from scalesocket.control.address import ControlError, SiteRefusedError
from scalesocket.control.messages import MAX_LINE, Answer, Outcome, Request

Result = TypeVar("Result")

TIMEOUT: Final = 75.0
"""Seconds to wait for the answer: longer than the server's ANSWER_TIMEOUT."""
SIGNAL_DELAY: Final = 0.25
"""Seconds after which a signal is handled at the latest."""
CONNECT_TIMEOUT: Final = 5.0
PROBE_TIMEOUT: Final = 1.0
"""Seconds to connect where only the presence of a server matters."""


def send_request(paths: Sequence[Path], request: Request, result: type[Result], timeout: float = TIMEOUT) -> Result:
    """Send a request to the server that listens at one of `paths`, and return its result, which is decoded as `result`.

    Raises ControlError when no server listens there, when it does not answer within `timeout` seconds, when its answer is
    invalid or an error; SiteRefusedError when the error is in the site file.
    """
    with _connect(paths) as connection:
        connection.settimeout(timeout)
        try:
            connection.sendall(_encode(request))
            line = _read_line(connection)
        except TimeoutError as error:
            raise ControlError(f"the server did not answer within {timeout:.0f} s") from error
        except OSError as error:
            raise ControlError(f"the server closed the connection ({error.strerror or error})") from error
    return _read_answer(line, result)


@contextmanager
def open_stream(paths: Sequence[Path], request: Request) -> Iterator[tuple[Outcome, Iterator[bytes]]]:
    """Send a request whose answer goes on; yield it and its further lines, until the server closes the connection.

    Raises ControlError as `send_request` does, and while the lines are read.
    """
    with _connect(paths) as connection:
        connection.settimeout(TIMEOUT)
        try:
            connection.sendall(_encode(request))
            first = bytearray()
            while not first.endswith(b"\n") and len(first) < MAX_LINE and (byte := connection.recv(1)):
                first += byte
        except OSError as error:
            raise ControlError(f"the server closed the connection ({error.strerror or error})") from error
        if not first.endswith(b"\n"):
            raise ControlError("the server closed the connection before its answer was complete")
        yield _read_answer(bytes(first), Outcome), _read_lines(connection)


def _encode(request: Request) -> bytes:
    """Return the line of a request. Raises ControlError for an argument of the command line that is not UTF-8."""
    try:
        return msgspec.json.encode(request) + b"\n"
    except UnicodeEncodeError as error:
        raise ControlError("an argument is not valid UTF-8") from error


def _read_lines(connection: socket.socket) -> Iterator[bytes]:
    """Read lines until the end. A signal just before a blocking call is handled after it (PEP 475), so none blocks for long."""
    rest = b""
    try:
        while True:
            if select.select([connection], [], [], SIGNAL_DELAY)[0]:
                chunk = connection.recv(65536)
                if not chunk:
                    return
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line + b"\n" for line in lines)
    except OSError as error:
        raise ControlError(f"the server closed the connection ({error.strerror or error})") from error


def find_server(paths: Sequence[Path]) -> int | None:
    """Return the pid of a server that listens where a new one would: at one of `paths` in the folder of the first."""
    for path in paths:
        if path.parent != paths[0].parent:
            break
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_TIMEOUT)
            try:
                probe.connect(str(path))
            except OSError:
                continue
            return pid_behind(probe)
    return None


def pid_behind(connection: socket.socket) -> int:
    """Return the pid of the process that called `listen` on the peer's socket."""
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(pid)


def _connect(paths: Sequence[Path]) -> socket.socket:
    for path in paths:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(CONNECT_TIMEOUT)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            connection.close()
        except BlockingIOError as error:  # its queue is full
            connection.close()
            raise ControlError(f"{path}: too many commands wait for the server (try again)") from error
        except OSError as error:
            connection.close()
            raise ControlError(f"{path}: {error.strerror or error}") from error
        else:
            return connection
    if not paths:
        raise ControlError("this site has no control socket (server.control is off)")
    tried = ", ".join(str(path) for path in paths)
    hint = "start it with scalesocket serve; if it runs as another user, run this command as that user"
    raise ControlError(f"no server runs this site (no control socket at {tried}; {hint})")


def _read_answer(line: bytes, result: type[Result]) -> Result:
    try:
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error is None:
            return msgspec.json.decode(answer.result, type=result)
    except msgspec.DecodeError as error:
        raise ControlError(f"invalid answer of the server ({error}; is it of another version?)") from error
    raise (SiteRefusedError if answer.is_site_wrong else ControlError)(answer.error)


def _read_line(connection: socket.socket) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        chunk = connection.recv(65536)
        line += chunk
        if not chunk or len(line) > MAX_LINE:
            raise ControlError(
                "the server closed the connection before its answer was complete"
                if not chunk
                else "the server's answer is too long"
            )
    return bytes(line)
