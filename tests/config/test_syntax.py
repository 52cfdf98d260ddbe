"""Errors of TOML syntax: their place, what is wrong, and what to write instead."""

from pathlib import Path

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.config.positions import find_last_statement
from scalesocket.config.problems import ConfigError, Problem
from scalesocket.config.syntax import explain_syntax
from scalesocket.config.toml_document import parse_document

SITE = Path("site.toml")


def problem_of(text: str) -> Problem:
    """Return the one problem of a text that is not TOML."""
    with pytest.raises(ConfigError) as caught:
        parse_document(text, SITE)
    (problem,) = caught.value.problems
    return problem


REPEATED = {
    '[apps.a]\ncommand = "cat"\ncommand = "cat"': "3:1: apps.a.command is set already, in line 2 (keep one of the two)",
    "a = 1\r\nb = 2\r\na = 3": "3:1: a is set already, in line 1 (keep one of the two)",
    "[apps.a]\n[apps.b]\n[apps.a]": (
        "3:2: the table [apps.a] is set already, in line 1 (write the keys of both under one header)"
    ),
    "[a]\nb.c = 1\n[a.b]": "3:2: the table [a.b] is set already, in line 2 (write the keys of both under one header)",
    "[a]\n[[a]]": "2:3: the table [a] is set already, in line 1 (write the keys of both under one header)",
    '[a]\nb = "x"\n[a.b]': "3:2: a.b is set already, in line 2 (keep one of the two)",
    "[a]\nb = { c = 1 }\nb.d = 2": "3:1: a.b is set already, in line 2 (keep one of the two)",
}

UNQUOTED = {
    "routing = json": '1:11: a string needs quotes (write "json")',
    "routing = json  # no quotes": '1:11: a string needs quotes (write "json")',
    "command = [cat, -u]": '1:12: a string needs quotes (write "cat")',
    'env = { A = b, C = "d" }': '1:13: a string needs quotes (write "b")',
    "command = cat -u": '1:11: a string needs quotes (write "cat -u")',
    "bind = 127.0.0.1:9000": '1:8: a string needs quotes (write "127.0.0.1:9000")',
    "idle_timeout = 30s": '1:16: a string needs quotes (write "30s")',
    "max_rooms = ${X:-5}": '1:13: a string needs quotes (write "${X:-5}")',
    "routing = " + "x" * 70: '1:11: a string needs quotes (write "…")',
    'routing = json"': '1:11: a string needs quotes (write "json")',
    "routing = “json”": '1:11: a string needs straight quotes (write "json")',
    "oneshot = Yes": "1:11: Yes is not a value (write true)",
    "oneshot = False": "1:11: False is not a value (write false)",
    "rate = none": "1:8: none is not a value (delete the line; a key that is not set has its default)",
}

UNCLOSED = {
    'command = "cat\nrouting = "json"': '1:11: this string is not closed (write " at its end, on the same line)',
    'command = "cat': '1:11: this string is not closed (write " at its end, on the same line)',
    "[apps.chat]\ncommand = 'cat": "2:11: this string is not closed (write ' at its end, on the same line)",
    'a = """\nb': '1:5: this string is not closed (write """ after its last line)',
    "a = '''\nb": "1:5: this string is not closed (write ''' after its last line)",
    'command = ["cat"\nrouting = "json"': '1:11: this array is not closed (write "]" at its end)',
    'command = ["cat"\n[apps.b]': '1:11: this array is not closed (write "]" at its end)',
    "a = [": '1:5: this array is not closed (write "]" at its end)',
    "a = [[1], # ]\n [2, 3]\n": '1:5: this array is not closed (write "]" at its end)',
    "a = { b = 1\nc = 2": '1:5: this table is not closed (write "}" at its end)',
    "a = {": '1:5: this table is not closed (write "}" at its end)',
    'a = ["x" "y"]': "1:10: a comma or a closing quote is missing before this",
    "[apps.chat": "1:11: this header is not closed (write [apps.chat])",
}

MISPLACED = {
    "x =": '1:4: the value is missing after "=" (write one, or delete the line)',
    "a = = 1": '1:5: the value is missing after "=" (write one, or delete the line)',
    'command: "cat"': '1:8: ":" instead of "=" (write command = …)',
    'command "cat"': '1:9: "=" is missing after command (write command = …)',
    'command = "cat" "-u"': ('1:17: more text after the value (start a new line, or write \\" for a quote inside a string)'),
    'a = "say "hi""': '1:11: more text after the value (start a new line, or write \\" for a quote inside a string)',
    "a = 1 ]": '1:7: more text after the value (start a new line, or write \\" for a quote inside a string)',
    'a = "C:\\dir"': r"1:8: a backslash in double quotes starts an escape (write \\, or use single quotes)",
    'a = "\\u12"': r"1:6: a backslash in double quotes starts an escape (write \\, or use single quotes)",
    "[a]\rb = 1": "1:4: invisible character U+000D (delete it)",
    'a = "\x01"': "1:6: invisible character U+0001 (delete it)",
    "a =\u00a01": "1:4: invisible character U+00A0 (delete it)",
}

FAULTS = {**REPEATED, **UNQUOTED, **UNCLOSED, **MISPLACED}

RARE = [
    "a = { b = 1, é = 2 }",
    "a = { b c = 1 }",
    "]",
    "a = [1,,2]",
    "// why",
    "<<<<<<< HEAD",
    '{ "apps": {} }',
    "[apps.my chat]",
    "[apps.]",
    "é = 1",
    '= "cat"',
    "a b = 1",
]


@pytest.mark.parametrize("text", FAULTS)
def test_a_common_fault_is_reported_with_its_place_and_a_hint(text: str) -> None:
    place, _, message = FAULTS[text].partition(": ")

    assert str(problem_of(text)) == f"site.toml:{place}: not valid TOML: {message}"


@pytest.mark.parametrize("text", RARE)
def test_any_other_fault_has_the_position_of_the_toml_library_and_the_line(text: str) -> None:
    with pytest.raises(tomli.TOMLDecodeError) as caught:
        tomli.loads(text)

    problem = problem_of(text)

    assert str(problem) == f"site.toml:{caught.value.lineno}:{caught.value.colno}: not valid TOML here"
    assert problem.place.source == text


def test_the_message_of_the_toml_library_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [problem_of(text) for text in (*FAULTS, *RARE)]
    loads = tomli.loads

    def reworded(text: str) -> object:
        try:
            return loads(text)
        except tomli.TOMLDecodeError as error:
            raise tomli.TOMLDecodeError("a message of another version", error.doc, error.pos) from None

    monkeypatch.setattr(tomli, "loads", reworded)

    assert [problem_of(text) for text in (*FAULTS, *RARE)] == before


def test_the_marker_underlines_the_part_that_is_wrong() -> None:
    assert problem_of("\trouting = json # why").render().splitlines()[1:] == ["  \trouting = json # why", "  \t          ^^^^"]


def test_a_line_with_control_characters_is_shown_without_them() -> None:
    assert problem_of("[a]\rb = 1").render().splitlines()[1] == "  [a]\ufffdb = 1"


def test_no_message_contains_a_secret() -> None:
    text = 'token = hunter2\nother = "x"'

    fault = explain_syntax(text, text.replace(" hunter2", "********"), text.index("hunter2"))

    assert fault.message == 'not valid TOML: a string needs quotes (write "*******")'


@given(st.text(st.sampled_from(list("ab1.=[]{}\"'#\\,-:$ \t\n\r"))) | st.sampled_from([*FAULTS, *RARE]).flatmap(
    lambda text: st.integers(0, len(text)).map(lambda end: text[:end])
))  # fmt: skip
def test_any_text_is_valid_or_has_one_problem(text: str) -> None:
    try:
        parse_document(text, SITE)
    except ConfigError as error:
        (problem,) = error.problems
        assert problem.message.startswith(("not valid TOML", "arrays or tables"))


def test_lines_may_end_with_repeated_carriage_returns() -> None:
    assert parse_document("a = 1\r\r\nb = 2\r\n", SITE).tables == {"a": 1, "b": 2}


def test_the_last_statement_of_a_text_is_found_although_the_text_is_incomplete() -> None:
    text = '[a]\nb = [\n  "]",\n]\n[c.d] # [e]\nf = """\n[g]'

    assert find_last_statement(text) == (text.index("f ="), ("c", "d"))
