"""The log: structlog to stderr, as text for people or JSON for machines. Owns format and level, both changeable while running.

Loggers are made anywhere with `structlog.get_logger()`. Those of the standard library (Hypercorn, Quart, asyncio,
warnings) are led here too, quieter by one step: their `info` is our `debug`.
"""

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

import msgspec
import structlog
from structlog.typing import WrappedLogger

Event = MutableMapping[str, Any]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
Render = Callable[[datetime, str, str, Mapping[str, object], str], str]

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
COLOURS: Final[Mapping[str, str]] = {
    "debug": "\x1b[34m",
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[1;31m",
}
BOLD: Final = "\x1b[1m"
DIM: Final = "\x1b[2m"
PLAIN: Final = "\x1b[0m"
INDENT: Final = "    "
"""Before each further line of an event."""
NOISY: Final = ("watchfiles",)
"""Loggers of libraries that speak at every change of a file, even of our own log's."""

_threshold = logging.INFO


class Logger(structlog.BoundLoggerBase):
    """What `structlog.get_logger()` gives. A call below the level costs one comparison; the level may change at any time."""

    def debug(self, event: str, **keys: object) -> None:
        """Log what only a person looking for a fault wants to read."""
        if _threshold <= logging.DEBUG:
            self._proxy_to_logger("debug", event, **keys)

    def info(self, event: str, **keys: object) -> None:
        """Log what happened, as an event with keys; never with the body of a message."""
        if _threshold <= logging.INFO:
            self._proxy_to_logger("info", event, **keys)

    def warning(self, event: str, **keys: object) -> None:
        """Log what works but should not stay so."""
        if _threshold <= logging.WARNING:
            self._proxy_to_logger("warning", event, **keys)

    def error(self, event: str, **keys: object) -> None:
        """Log what failed."""
        if _threshold <= logging.ERROR:
            self._proxy_to_logger("error", event, **keys)

    def exception(self, event: str, **keys: object) -> None:
        """Log what failed by a fault of ours, with the traceback of the exception being handled."""
        keys.setdefault("exc_info", True)
        self.error(event, **keys)

    def critical(self, event: str, **keys: object) -> None:
        """Log what ends the server."""
        self._proxy_to_logger("critical", event, **keys)


class Stderr:
    """Writes the lines to standard error: in a server through an `Output` of `streams.py`, which never blocks."""

    def __init__(self, *_: object) -> None:
        """Take what `structlog.get_logger("name")` was given; the events say enough without it."""

    def write(self, line: str) -> None:
        """Write one line to what `sys.stderr` is now; a failed write is ignored."""
        try:
            stderr = sys.stderr
            stderr.write(line + "\n")
            stderr.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = write


class StandardLibrary(logging.Handler):
    """Leads records of the standard library's `logging` here."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log `record` under the name of its logger."""
        level = max((name for name in LEVELS if LEVELS[name] <= record.levelno), key=LEVELS.__getitem__, default="debug")
        message = record.getMessage()
        if record.name == "py.warnings":
            message = message.partition("\n")[0]  # the next line repeats the source code
        try:
            getattr(structlog.get_logger(), level)(message, logger=record.name, exc_info=record.exc_info)
        except Exception:
            self.handleError(record)


class Renderer:
    """The last step of a line: `render` may be exchanged while loggers are in use."""

    def __init__(self, render: Render) -> None:
        self.render = render

    def __call__(self, _: WrappedLogger, level: str, event: Event) -> str:
        """Turn an event and its keys into one line."""
        error = _traceback(event.pop("exc_info", None))
        return self.render(datetime.now(UTC), level, str(event.pop("event", "")), event, error)


def set_log(log_format: str, level: str) -> None:
    """Log as "text" or "json" from `level` (one of LEVELS) up; may be called again at any time.

    Text is coloured when stderr is a terminal and NO_COLOR is not set.
    """
    global _threshold
    _threshold = LEVELS[level]
    _renderer.render = render_json if log_format == "json" else render_colours if _wants_colours() else render_text
    if not structlog.is_configured():
        structlog.configure(
            processors=[_renderer],
            wrapper_class=Logger,
            logger_factory=Stderr,
            cache_logger_on_first_use=True,
        )
    root = logging.getLogger()
    if not any(isinstance(handler, StandardLibrary) for handler in root.handlers):
        root.addHandler(StandardLibrary())
        logging.captureWarnings(capture=True)
    root.setLevel(logging.DEBUG if level == "debug" else max(_threshold, logging.WARNING))
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def log_faults() -> None:
    """Log what Python would print as a bare traceback: what ends the process or a thread, and what a finalizer raises."""
    log = structlog.get_logger()

    def fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            log.critical("the server failed", exc_info=(kind, error, trace))

    def thread_fault(fault: threading.ExceptHookArgs) -> None:
        if fault.exc_value is not None and not isinstance(fault.exc_value, SystemExit):
            log.error("a thread failed", thread=fault.thread.name if fault.thread else None, exc_info=fault.exc_value)

    def ignored_fault(fault: "sys.UnraisableHookArgs") -> None:
        log.error(fault.err_msg or "exception ignored", where=repr(fault.object), exc_info=fault.exc_value)

    sys.excepthook, threading.excepthook, sys.unraisablehook = fault, thread_fault, ignored_fault


def describe_loss(lines: int, cause: str) -> str:
    """The event about lines that never got into the log, rendered like any other, whatever the level."""
    event = f"{lines} line{'' if lines == 1 else 's'} dropped {cause}"
    return _renderer.render(datetime.now(UTC), "warning", event, {"lines": lines}, "")


def is_logged(level: str) -> bool:
    """Whether events of `level` are written at all; asks before keys are built that cost something."""
    return LEVELS[level] >= _threshold


def render_json(time: datetime, level: str, event: str, keys: Mapping[str, object], error: str) -> str:
    """One JSON object on one line: `timestamp` (RFC 3339, UTC), `level`, `event`, the event's keys, `exception`."""
    line: dict[str, object] = {"timestamp": _timestamp(time), "level": level, "event": event, **keys}
    if error:
        line["exception"] = error
    return msgspec.json.encode(_scrub(line), enc_hook=str).decode()


def render_text(time: datetime, level: str, event: str, keys: Mapping[str, object], error: str) -> str:
    """One line for people without a terminal: time, level, event, `key=value`; the traceback is indented below it."""
    event, _, more = event.partition("\n")
    words = " ".join(f"{key}={_value(value)}" for key, value in keys.items())
    return f"{_timestamp(time)} {level.upper():<8} {printable(event)}{'  ' if words else ''}{words}{_below(more, error)}"


def render_colours(time: datetime, level: str, event: str, keys: Mapping[str, object], error: str) -> str:
    """The same line for a terminal."""
    event, _, more = event.partition("\n")
    words = " ".join(f"{DIM}{key}={PLAIN}{_value(value)}" for key, value in keys.items())
    clock = f"{time.astimezone():%H:%M:%S.%f}"[:-3]
    head = f"{DIM}{clock}{PLAIN} {COLOURS[level]}{level.upper():<8}{PLAIN} {BOLD}{printable(event)}{PLAIN}"
    return f"{head}{'  ' if words else ''}{words}{_below(more, error)}"


_renderer: Final = Renderer(render_text)


def _wants_colours() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _timestamp(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and not set(text) & set(" =\"'\\") else _quoted(text)


def _quoted(text: str) -> str:
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def printable(text: str) -> str:
    """The text without characters that move a terminal's cursor or forge a second line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _below(*texts: str) -> str:
    """The other lines of an event, indented, so that none can be taken for an event of its own."""
    return "".join(f"\n{INDENT}{printable(line)}" for text in texts for line in text.splitlines())


def _traceback(exc_info: object) -> str:
    """The traceback of what a caller gave as `exc_info`: True, an exception, a triple, or the text of another process."""
    if not exc_info:
        return ""
    if isinstance(exc_info, str):
        return exc_info
    error = exc_info if isinstance(exc_info, BaseException) else exc_info[1] if isinstance(exc_info, tuple) else sys.exc_info()[1]
    return "".join(traceback.format_exception(error)).rstrip() if error is not None else ""


def _scrub(value: object) -> object:
    """Values JSON has no word for, in words: bytes as text, lone surrogates replaced, the keys of a mapping as strings."""
    match value:
        case str():
            return value.encode(errors="replace").decode() if not value.isascii() else value
        case bytes():
            return value.decode(errors="replace")
        case Mapping():
            return {str(_scrub(key)): _scrub(inner) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_scrub(inner) for inner in value]
        case _:
            return value
