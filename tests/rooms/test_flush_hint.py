"""The hint about a program that does not flush its output, alone."""

from typing import Any

import pytest
import structlog.testing

from scalesocket.rooms.flush_hint import TIME_TO_ANSWER, FlushHint


def check(hint: FlushHint, now: float, *, messages: int = 1, has_output: bool = False, unsent: int = 0) -> list[Any]:
    """Check once; return what was logged."""
    with structlog.testing.capture_logs() as events:
        hint.check(now, messages=messages, has_output=has_output, unsent=unsent)
    return events


def test_a_program_that_received_messages_and_wrote_nothing_is_logged_once() -> None:
    hint = FlushHint("game", "one", is_program=True)
    assert check(hint, 0.0, messages=0) == check(hint, 100.0) == check(hint, 100.0 + TIME_TO_ANSWER - 0.1) == []

    [event] = check(hint, 100.0 + TIME_TO_ANSWER, messages=3)

    assert (event["app"], event["room"], event["messages"]) == ("game", "one", 3)
    assert "flush" in event["hint"]
    assert check(hint, 1000.0) == []


@pytest.mark.parametrize("excuse", [{"has_output": True}, {"unsent": 1}, {"messages": 0}], ids=lambda one: next(iter(one)))
def test_no_hint_while_there_is_output_unread_input_or_no_message(excuse: dict[str, Any]) -> None:
    hint = FlushHint("game", "one", is_program=True)

    assert check(hint, 0.0, **excuse) == check(hint, 100.0, **excuse) == []


def test_a_program_that_wrote_once_is_never_logged() -> None:
    hint = FlushHint("game", "one", is_program=True)
    check(hint, 0.0, has_output=True)

    assert check(hint, 1.0) == check(hint, 100.0) == []


def test_no_hint_about_a_connection() -> None:
    hint = FlushHint("game", "one", is_program=False)

    assert check(hint, 0.0) == check(hint, 100.0) == []


def test_the_next_program_has_time_of_its_own_and_is_judged_by_its_own_messages() -> None:
    hint = FlushHint("game", "one", is_program=True)
    check(hint, 0.0, messages=2)
    hint.backend_restarts(2)
    assert check(hint, 4.0, messages=2) == check(hint, 100.0, messages=3) == []

    [event] = check(hint, 100.0 + TIME_TO_ANSWER, messages=3)

    assert event["messages"] == 1
