"""The site of one app that `scalesocket [FLAGS] CMD [-- ARGS...]` describes, with the original's defaults. Pure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import click
from pydantic import ValidationError

from scalesocket.cli.flags import CommandLine, parse_command_line
from scalesocket.config.model import App, History, Log, PortRange, Routes, Routing, Server, Site
from scalesocket.config.validation_errors import describe_errors

APP_NAME: Final = "app"
"""The name of the one app, in `APP` and in metrics."""
DEFAULT_ADDRESS: Final = "0.0.0.0:9000"
DEFAULT_PORTS: Final = "9001:9999"
DEFAULT_PASS_ENV: Final = ("PATH", "DYLD_LIBRARY_PATH")
JOIN_MESSAGE: Final = '{"t":"Join","_from":#ID}'
"""The join message of `--json`, as the original's: without the `_event` of a site file's default."""
LEAVE_MESSAGE: Final = '{"t":"Leave","_from":#ID}'
CLIENT_KEYS: Final = ("_to", "_meta", "_cache")
"""The control keys that the original leaves in clients' messages."""
MODES: Final[Mapping[str | None, Routing]] = {None: Routing.JSON, "json": Routing.JSON, "gwsocket": Routing.GWSOCKET}

_FLAG_OF: Final[Mapping[str, str]] = {
    "bind": "--addr",
    "delimiter": "--delimiters",
    "size": "--cache",
    "max_rooms": "--maxrooms",
    "start_delay": "--delay",
    "command": "CMD",
    "static": "--staticdir",
}


def flag_of(key: str) -> str:
    """Return the flag that sets a key of the model, for error messages."""
    return _FLAG_OF.get(key, key)


def site_from_args(argv: Sequence[str]) -> Site:
    """Build the site from the arguments of `scalesocket`. Raises click.UsageError.

    Relative paths start from the working directory. Whether the command exists is not checked.
    """
    return site_from_line(parse_command_line(argv))


def site_from_line(line: CommandLine) -> Site:
    """Build the site from a parsed command line. Raises click.UsageError."""
    try:
        return Site(server=_server(line), apps={APP_NAME: _app(line)})
    except ValidationError as error:
        finding = next(describe_errors(App, error, elsewhere={}))
        raise click.UsageError(f"{flag_of(str(finding.path[0]))}: {finding.message}") from error


def _server(line: CommandLine) -> Server:
    return Server(
        bind=(DEFAULT_ADDRESS if (address := line.value("--addr")) is None else address,),
        metrics=line.has("--metrics"),
        api=line.has("--api"),
        metrics_rooms=True,
        max_connections=None,
        control="off",
        log=Log(format=_log_format(line), level="debug" if line.has("-v") else "info"),
    )


def _app(line: CommandLine) -> App:
    is_json = line.has("--json")
    max_rooms = _whole_number(line, "--maxrooms")
    static = line.value("--staticdir")
    routing = _routes(line)
    return App(
        name=APP_NAME,
        mount="/",
        command=line.command,
        port=_ports(line),
        start_delay=_seconds(line, "--delay"),
        pass_env=DEFAULT_PASS_ENV if (names := line.values("--passenv")) is None else names,
        routing=routing,
        client_keys=CLIENT_KEYS if routing.client is Routing.JSON else (),
        binary=line.has("--binary"),
        delimiter=_delimiter(line),
        input_end=None if line.has("--binary") else "\n",  # independent of the delimiter of the program's output
        join_message=line.value("--joinmsg") if line.has("--joinmsg") else JOIN_MESSAGE if is_json else None,
        leave_message=line.value("--leavemsg") if line.has("--leavemsg") else LEAVE_MESSAGE if is_json else None,
        history=_history(line),
        rooms=line.values("--rooms"),
        max_rooms=1 if max_rooms is None and line.has("--oneshot") else max_rooms,
        oneshot=line.has("--oneshot"),
        origins=("*",),
        static=None if static is None else Path(static),
    )


def _log_format(line: CommandLine) -> Literal["text", "json"]:
    match line.value("--log"):
        case None | "text":
            return "text"
        case "json":
            return "json"
        case other:
            raise click.UsageError(f"--log: unknown format {other!r} (one of: text, json)")


def _routes(line: CommandLine) -> Routes:
    if line.has("--json"):
        return Routes(client=Routing.JSON, server=Routing.JSON)
    both = _mode(line, "--frame")
    return Routes(
        client=both or _mode(line, "--clientframe") or Routing.BROADCAST,
        server=both or _mode(line, "--serverframe") or Routing.BROADCAST,
    )


def _mode(line: CommandLine, flag: str) -> Routing | None:
    if not line.has(flag):
        return None
    mode = line.value(flag)
    if mode not in MODES:
        raise click.UsageError(f"{flag}: unknown mode {mode!r} (one of: json, gwsocket)")
    return MODES[mode]


def _delimiter(line: CommandLine) -> str | None:
    """Return the characters that end a record. With gwsocket, too, a newline follows each payload, as with the original."""
    if line.has("--binary"):
        return None
    characters = line.value("--delimiters")
    if line.has("--null"):
        return (characters or "") + "\0"  # as with the original, --null alone replaces the newline
    if characters == "":
        raise click.UsageError("--delimiters: is empty (write --binary for output that is not split)")
    return "\n" if characters is None else characters


def _history(line: CommandLine) -> History | None:
    cache = line.value("--cache")
    if cache is None:
        return None
    kind, colon, size = cache.rpartition(":")
    keep: Literal["all", "tagged"]
    match kind if colon else "all":
        case "all":
            keep = "all"
        case "tagged":
            keep = "tagged"
        case other:
            raise click.UsageError(f"--cache: unknown type {other!r} (one of: all, tagged)")
    return History(size=_number("--cache", size), keep=keep, persist=line.has("--cachepersist"))


def _ports(line: CommandLine) -> PortRange | None:
    if not line.has("--tcp"):
        return None
    text = line.value("--tcpports") or DEFAULT_PORTS
    start, colon, end = text.partition(":")
    if not colon:
        raise click.UsageError(f"--tcpports: {text!r} is not a range (write START:END, END not included)")
    first, last = _number("--tcpports", start), _number("--tcpports", end) - 1
    if not 1 <= first <= last <= 65535:
        raise click.UsageError(f"--tcpports: no port in {text!r} (write START:END, END not included, both from 1 to 65536)")
    return PortRange(first, last)


def _seconds(line: CommandLine, flag: str) -> float:
    value = line.value(flag)
    try:
        return 0.0 if value is None else float(value)
    except ValueError as error:
        raise click.UsageError(f"{flag}: {value!r} is not a number of seconds (write 2 or 0.5)") from error


def _whole_number(line: CommandLine, flag: str) -> int | None:
    value = line.value(flag)
    return None if value is None else _number(flag, value)


def _number(flag: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise click.UsageError(f"{flag}: {text!r} is not a whole number (write digits only)")
    return int(text)
