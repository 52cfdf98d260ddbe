"""The log: its lines as text and JSON, its level, and tracebacks."""

import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Final

import pytest
import structlog

from scalesocket import logs
from scalesocket.logs import set_log


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    root.removeHandler(logs._handler)  # another test may have set the log
    handlers, level = root.handlers[:], root.level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()  # another test may have captured the log, which counts as configuring it
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def test_keys_of_the_process_are_added_to_every_event(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_keys", {})
    set_log("json", "info")
    logs.set_log_keys(worker=2)

    structlog.get_logger("room").info("a room opened", app="chat")
    logging.getLogger("hypercorn").warning("of the standard library")
    lines = [*capfd.readouterr().err.splitlines(), logs.describe_loss(1, "because the log could not be written")]

    assert [(json.loads(line)["worker"]) for line in lines] == [2, 2, 2]


def test_a_line_of_text_has_time_level_event_and_keys(capfd: pytest.CaptureFixture[str]) -> None:
    set_log("text", "info")

    structlog.get_logger("room").info("a room opened", app="chat", room="lobby 1", pid=42)

    line = capfd.readouterr().err
    assert line.endswith('INFO     a room opened  app=chat room="lobby 1" pid=42\n')
    assert line[:4].isdigit()
    assert "\x1b" not in line


def test_a_line_of_json_is_one_object(capfd: pytest.CaptureFixture[str]) -> None:
    set_log("json", "info")

    structlog.get_logger().warning("odd", app="chat", pids={7}, raw=b"\xff", path=structlog)

    event = json.loads(capfd.readouterr().err)
    assert list(event)[:3] == ["timestamp", "level", "event"]
    assert event["timestamp"].endswith("Z")
    assert event["level"] == "warning"
    assert event["pids"] == [7]
    assert event["raw"] == "\ufffd"


def test_a_value_cannot_move_the_cursor_or_forge_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    set_log("text", "info")

    structlog.get_logger().info("said", line="\x1b[2J\nERROR forged")

    assert capfd.readouterr().err.endswith('line="\\x1b[2J\\nERROR forged"\n')


def test_a_lone_surrogate_does_not_break_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    for log_format in ("text", "json"):
        set_log(log_format, "info")
        structlog.get_logger().info("odd", name="\udcff")

    text, record = capfd.readouterr().err.splitlines()
    assert text.endswith('name="\\udcff"')
    assert json.loads(record)["event"] == "odd"


def test_level_and_format_change_while_a_logger_is_in_use(capfd: pytest.CaptureFixture[str]) -> None:
    set_log("text", "info")
    log = structlog.get_logger()
    log.debug("not yet")

    set_log("json", "debug")
    log.debug("now")
    set_log("json", "error")
    log.warning("no more")

    assert json.loads(capfd.readouterr().err)["event"] == "now"


def test_bound_keys_are_on_every_line(capfd: pytest.CaptureFixture[str]) -> None:
    set_log("text", "info")
    log = structlog.get_logger().bind(app="chat")

    log.info("one")
    log.error("two")

    assert capfd.readouterr().err.count("app=chat") == 2


def test_exception_logs_the_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    for log_format in ("text", "json"):
        set_log(log_format, "info")
        try:
            raise ValueError("broken")
        except ValueError:
            structlog.get_logger().exception("it failed", app="chat")

    text = capfd.readouterr().err
    assert text.count("ValueError: broken") == 2
    assert "Traceback" in json.loads(text.splitlines()[-1])["exception"]


def test_a_traceback_is_indented_below_its_event_and_can_forge_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    set_log("text", "info")

    try:
        raise ValueError("broken\n2026-01-01T00:00:00.000Z ERROR    forged\x1b[2J")
    except ValueError:
        structlog.get_logger().exception("it failed\nbadly", app="chat")

    head, *below = capfd.readouterr().err.splitlines()
    assert head.endswith("ERROR    it failed  app=chat")
    assert below[:2] == ["    badly", "    Traceback (most recent call last):"]
    assert below[-1] == "    2026-01-01T00:00:00.000Z ERROR    forged\\x1b[2J"
    assert all(line.startswith("    ") for line in below)


FAULTS: Final = """
import asyncio, gc, logging, sys, threading
import structlog
from scalesocket.logs import log_faults, set_log

class Finalized:
    def __del__(self): raise ValueError("in a finalizer")

async def forgotten(): raise ValueError("in a task")

async def main():
    asyncio.get_running_loop().create_task(forgotten())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()

set_log(sys.argv[1], "info")
log_faults()
asyncio.run(main())
Finalized()
thread = threading.Thread(target=lambda: int("in a thread"))
thread.start()
thread.join()
try:
    int("in a library")
except ValueError:
    logging.getLogger("hypercorn.error").exception("it failed")
raise ExceptionGroup("all", [ValueError("at the end")])
"""
WHERE: Final = ("in a task", "in a finalizer", "in a thread", "in a library", "at the end")


def run_faults(log_format: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", FAULTS, log_format], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr.splitlines()


def test_every_traceback_is_one_event_of_text() -> None:
    lines = run_faults("text")

    heads = [number for number, line in enumerate(lines) if not line.startswith("    ")]
    assert len(heads) == len(WHERE), lines
    for head, next_head, where in zip(heads, [*heads[1:], len(lines)], WHERE, strict=True):
        assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z (ERROR|CRITICAL) ", lines[head])
        assert any("Traceback (most recent call last):" in line for line in lines[head + 1 : next_head])
        assert where in "".join(lines[head + 1 : next_head])


def test_every_traceback_is_one_object_of_json() -> None:
    events = [json.loads(line) for line in run_faults("json")]

    assert len(events) == len(WHERE)
    for event, where in zip(events, WHERE, strict=True):
        assert event["level"] in ("error", "critical")
        assert "Traceback (most recent call last):" in event["exception"]
        assert where in event["exception"]


def test_warnings_and_errors_of_libraries_are_logged(capfd: pytest.CaptureFixture[str]) -> None:
    set_log("text", "info")

    logging.getLogger("hypercorn.error").error("it %s", "failed")
    logging.getLogger("asyncio").info("Using selector")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    error, warned, source = capfd.readouterr().err.splitlines()
    assert error.endswith("ERROR    it failed  logger=hypercorn.error")
    assert warned.endswith("DeprecationWarning: old  logger=py.warnings")
    assert source.strip().startswith("warnings.warn")


def test_a_closed_standard_error_does_not_end_the_server() -> None:
    program = (
        "import structlog; from scalesocket.logs import set_log\n"
        "set_log('text', 'info')\n"
        "for n in range(1000): structlog.get_logger().info('n' * 1000)\n"
        "print('alive')"
    )

    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.close()
        assert process.stdout is not None
        said = process.stdout.read()

    assert said == b"alive\n"
