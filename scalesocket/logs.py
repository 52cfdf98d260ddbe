"""The log: structlog to standard error, as text or JSON. Owns format and level; both may change while loggers are in use.

Loggers are made anywhere with `structlog.get_logger()`. Records of the standard library's `logging` (Hypercorn, Quart, asyncio,
warnings) go through the same processors. Libraries log from warning up, and all they have at level debug.

structlog's processors do the rendering. Our own code is what they lack: a level that changes at runtime, text in which no value
can forge a line or move the cursor of a terminal, and JSON for bytes and sets.
"""

import logging
import os
import re
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

import structlog
from structlog.dev import Column, ConsoleRenderer, plain_traceback
from structlog.processors import JSONRenderer, TimeStamper, add_log_level, format_exc_info
from structlog.stdlib import ProcessorFormatter, add_logger_name
from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
NO_COLOURS: Final[Mapping[str, str]] = dict.fromkeys((*LEVELS, "bold", "dim", "reset"), "")
COLOURS: Final[Mapping[str, str]] = {
    "debug": "\x1b[34m",
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[1;31m",
    "bold": "\x1b[1m",
    "dim": "\x1b[2m",
    "reset": "\x1b[0m",
}
PLAIN: Final = re.compile(r"""[^ ="'\\]+""")
"""Values that need no quotes, if all their characters are printable."""
INDENT: Final = "    "
"""Before each further line of an event."""
NOISY: Final = ("watchfiles", "httpx", "httpcore")
"""Loggers of libraries that log every change of a file, including our own log's, or the URL and the headers of every request."""


class Logger(structlog.BoundLoggerBase):
    """The logger that `structlog.get_logger()` returns. `set_level` gives it the methods of structlog's filtering loggers.

    Those loggers have a fixed level each. Exchanging methods changes the level of every logger at once, and a call below the
    level costs as little as theirs.
    """


class Stderr:
    """Writes lines to standard error: in a server through an `Output` of `streams.py`, which never blocks.

    Not structlog's PrintLogger: that one keeps the stream it was made with, and a failed write raises in the caller.
    """

    def __init__(self, *_: object) -> None:
        """Ignore the arguments of `structlog.get_logger("name")`."""

    def write(self, line: str) -> None:
        """Write one line to what `sys.stderr` is now; a failed write is ignored."""
        try:
            stderr = sys.stderr
            stderr.write(line + "\n")
            stderr.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = write


class StandardLibraryHandler(logging.Handler):
    """Writes records of the standard library's `logging` to our log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; never raises."""
        try:
            Stderr().write(self.format(record))
        except Exception:
            self.handleError(record)


def set_log(log_format: str, level: str) -> None:
    """Log as "text" or "json" from `level` (one of LEVELS) up; may be called again at any time.

    Text is coloured when stderr is a terminal and NO_COLOR is not set.
    """
    global _processors
    set_level(level)
    _processors = _json_processors() if log_format == "json" else _text_processors(is_coloured=_wants_colours())
    if not structlog.is_configured():
        structlog.configure(processors=[_render], wrapper_class=Logger, logger_factory=Stderr, cache_logger_on_first_use=True)
    root = logging.getLogger()
    if _handler not in root.handlers:
        root.addHandler(_handler)
        logging.captureWarnings(capture=True)
    root.setLevel(logging.DEBUG if level == "debug" else max(LEVELS[level], logging.WARNING))
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Log events from `level` (one of LEVELS) up."""
    filtering = structlog.make_filtering_bound_logger(LEVELS[level])
    for name in (*LEVELS, "exception"):
        setattr(Logger, name, getattr(filtering, name))


def set_log_keys(**keys: object) -> None:
    """Add these keys to every event of this process, such as the number of a worker."""
    _keys.update(keys)


def log_faults() -> None:
    """Log what Python would print as a bare traceback: what ends the process or a thread, and what a finalizer raises."""
    log = structlog.get_logger()

    def fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            log.critical("server failed", exc_info=(kind, error, trace))

    def thread_fault(fault: threading.ExceptHookArgs) -> None:
        if fault.exc_value is not None and not isinstance(fault.exc_value, SystemExit):
            log.error("thread failed", thread=fault.thread.name if fault.thread else None, exc_info=fault.exc_value)

    def ignored_fault(fault: "sys.UnraisableHookArgs") -> None:
        log.error(fault.err_msg or "exception ignored", where=repr(fault.object), exc_info=fault.exc_value)

    sys.excepthook, threading.excepthook, sys.unraisablehook = fault, thread_fault, ignored_fault


def describe_loss(lines: int, cause: str) -> str:
    """Render the event about lines that were dropped before they got into the log, whatever the level."""
    return _render(None, "warning", {"event": f"{lines} line{'' if lines == 1 else 's'} dropped {cause}", "lines": lines})


def printable(text: str) -> str:
    """Escape the characters that move a terminal's cursor or begin a line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _render(logger: WrappedLogger, level: str, event: Any) -> str:
    """Turn an event into a line. Loggers keep the processors they were made with, so their only one is this function."""
    if _keys:
        event.update(_keys)
    for processor in _processors:
        event = processor(logger, level, event)
    return str(event)


def _json_processors() -> list[Processor]:
    """One JSON object a line: `timestamp` (RFC 3339, UTC), `level`, `event`, the event's keys, `exception`."""
    render = JSONRenderer(ensure_ascii=False, skipkeys=True, separators=(",", ":"), default=_to_jsonable)
    return [add_log_level, TimeStamper(fmt="iso"), format_exc_info, _put_head_first, render]


def _text_processors(*, is_coloured: bool) -> list[Processor]:
    """One line for people: time (UTC; local on a terminal), level, event, `key=value`; the traceback is indented below it."""
    stamp = TimeStamper(fmt="%H:%M:%S.%f", utc=False) if is_coloured else TimeStamper(fmt="iso")
    columns = _columns(COLOURS if is_coloured else NO_COLOURS)
    render = ConsoleRenderer(columns=columns, sort_keys=False, exception_formatter=plain_traceback)
    return [add_log_level, stamp, format_exc_info, _indent_further_lines, render]


def _columns(style: Mapping[str, str]) -> list[Column]:
    bold, dim, reset = style["bold"], style["dim"], style["reset"]

    def time(key: str, value: object) -> str:
        return f"{dim}{value}{reset}"

    def level(key: str, value: object) -> str:
        name = str(value)
        return f"{style.get(name, '')}{name.upper():<8}{reset}"

    def event(key: str, value: object) -> str:
        return f"{bold}{printable(str(value))}{reset} "

    def pair(key: str, value: object) -> str:
        return f"{dim}{key}={reset}{_quote(str(value))}"

    return [Column("timestamp", time), Column("level", level), Column("event", event), Column("", pair)]


def _quote(text: str) -> str:
    """Quote and escape a value, unless it is a plain word."""
    if PLAIN.fullmatch(text) and text.isprintable():
        return text
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _indent_further_lines(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Indent all lines of an event but the first, and its traceback, so that none can be taken for an event of its own."""
    event["event"], _, more = str(event["event"]).partition("\n")
    if below := [*more.splitlines(), *event.pop("exception", "").splitlines()]:
        event["exception"] = "\n".join(INDENT + printable(line) for line in below)
    return event


def _put_head_first(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Order the keys for people who read the JSON."""
    return {"timestamp": event.pop("timestamp"), "level": event.pop("level"), "event": event.pop("event"), **event}


def _to_jsonable(value: object) -> object:
    match value:
        case bytes():
            return value.decode(errors="replace")
        case set() | frozenset():
            return list(value)
        case _:
            return str(value)


def _wants_colours() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


_keys: Final[dict[str, object]] = {}
_processors = _text_processors(is_coloured=False)
_handler: Final = StandardLibraryHandler()
_handler.setFormatter(ProcessorFormatter(processors=[add_logger_name, ProcessorFormatter.remove_processors_meta, _render]))
