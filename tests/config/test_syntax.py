"""What is said of texts that are not TOML: where, what, and what to write instead."""

from pathlib import Path

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.config.documents import parse_document
from scalesocket.config.positions import find_last_statement
from scalesocket.config.problems import ConfigError
from scalesocket.config.syntax import explain_syntax

SITE = Path("site.toml")


def fault_of(text: str) -> str:
    """The one problem of a text, as its line and column and what is wrong there."""
    with pytest.raises(ConfigError) as caught:
        parse_document(text, SITE)
    (problem,) = caught.value.problems
    return str(problem).removeprefix("site.toml:").replace("not valid toml: ", "")


REPEATED = {
    '[apps.a]\ncommand = "cat"\ncommand = "cat"': "3:1: command is set twice, first in line 2 (keep one of the two)",
    "a = 1\r\nb = 2\r\na = 3": "3:1: a is set twice, first in line 1 (keep one of the two)",
    "[apps.a]\n[apps.b]\n[apps.a]": "3:2: the table [apps.a] is there already, in line 1 (put the keys of both under one header)",
    "[a]\nb.c = 1\n[a.b]": "3:2: the table [a.b] is there already, in line 2 (put the keys of both under one header)",
    "[a]\n[[a]]": "2:3: a is there already, in line 1; no table of a site file is a list (write [a])",
    '[a]\nb = "x"\n[a.b]': "3:2: a.b has a value in line 2, so nothing can be within it (keep one of the two)",
    "[a]\nb = { c = 1 }\nb.d = 2": "3:1: a.b is complete in its braces in line 2 (write this between those braces)",
    "a = { b = 1,\n  b = 2 }": "2:3: b is set twice (keep one of the two)",
}

UNQUOTED = {
    "routing = json": '1:11: text needs quotes (write "json")',
    "routing = json  # no quotes": '1:11: text needs quotes (write "json")',
    "command = [cat, -u]": '1:12: text needs quotes (write "cat")',
    "command = cat -u": '1:11: text needs quotes (write "cat -u")',
    "bind = 127.0.0.1:9000": '1:8: text needs quotes (write "127.0.0.1:9000")',
    "idle_timeout = 30s": '1:16: text needs quotes (write "30s")',
    "max_rooms = ${X:-5}": '1:13: text needs quotes (write "${X:-5}")',
    "routing = " + "x" * 70: '1:11: text needs quotes (write "…")',
    'routing = json"': '1:11: the quote before the text is missing (write "json")',
    "routing = “json”": '1:11: “ is no quote to TOML (write "json")',
    "oneshot = Yes": "1:11: not a value of TOML (write true)",
    "oneshot = False": "1:11: not a value of TOML (write false)",
    "rate = none": "1:8: not a value of TOML, which has no word for nothing (leave the key out)",
    "at = 2024-02-30": '1:6: there is no such date or time (write "2024-02-30" for text)',
    "bind = 9000 9001": "1:8: more than one value (a list is written [9000, 9001])",
    'command = "cat" "-u"': '1:11: more than one value (a list is written ["cat", "-u"])',
    "max_rooms = 007": '1:13: a number does not begin with 0 (write 7, or "007" for text)',
}

UNCLOSED = {
    'command = "cat\nrouting = "json"': '1:11: the text is not closed (write " at its end, on the same line)',
    'command = "cat': '1:11: the text is not closed (write " at its end, on the same line)',
    "[apps.chat]\ncommand = 'cat": "2:11: the text is not closed (write ' at its end, on the same line)",
    'a = """\nb': '1:5: the text that begins here is not closed (write """ after its last line)',
    "a = '''\nb": "1:5: the text that begins here is not closed (write ''' after its last line)",
    'command = ["cat"\nrouting = "json"': '1:11: the list that begins here is not closed (write "]" after its last item)',
    'command = ["cat"\n[apps.b]': '1:11: the list that begins here is not closed (write "]" after its last item)',
    "a = [": '1:5: the list that begins here is not closed (write "]" after its last item)',
    "a = [[1], # ]\n [2, 3]\n": '1:5: the list that begins here is not closed (write "]" after its last item)',
    "a = { b = 1\nc = 2": '1:5: the table that begins here is not closed (write "}" after its last value)',
    "a = {": '1:5: the table that begins here is not closed (write "}" after its last value)',
    'a = ["x" "y"]': "1:10: a comma is missing before this (or the quote at an end of a text)",
    "[apps.chat": '1:11: "]" is missing at the end of the header (write [apps.chat])',
    "[[apps.chat]\n": '1:12: "]]" is missing at the end of the header (write [apps.chat])',
    "apps.chat]": '1:10: "]" closes nothing (a table begins like this: [apps.chat])',
    "a = 1 ]": '1:7: "]" closes nothing (take it out)',
    "]": '1:1: "]" closes nothing (delete it, or look above for a bracket too many)',
}

MISSHAPEN = {
    "x =": "1:4: a value is missing after the equals sign (write one, or take the line out)",
    "a = = 1": "1:5: one equals sign is enough (take this one out)",
    "a = [1,,2]": "1:8: a value is missing here (write one, or take the comma out)",
    'command: "cat"': '1:8: ":" where an equals sign belongs (write command = …)',
    'command "cat"': '1:9: "=" is missing after command (write command = …)',
    "rate = { bytes }": '1:16: "=" is missing after bytes (write bytes = …)',
    'idle timeout = "3s"': "1:1: a key is one word (write idle_timeout = …)",
    '= "cat"': "1:1: there is no key before the equals sign (write one)",
    'a = "b";': '1:8: ";" has no place after a value (take it out)',
    'a = "b" c = "d"': "1:9: nothing but a comment may follow a value (begin a new line here, or write # before a comment)",
    'a = "say "hi""': '1:11: the text ends before this (write \\" for a quote within text)',
    "[apps.chat] a = 1": "1:13: nothing but a comment may follow a table's header (begin a new line here)",
    "[apps.my chat]": ("1:2: a table's name has no space in it (lower-case letters, digits, '-' and '_', as in [apps.my-chat])"),
    "[apps.]": "1:7: a name is missing here (write one, as in [apps.chat] or routing = …)",
    "[apps.é]": "1:7: a name cannot hold \"é\" (lower-case letters, digits, '-' and '_')",
    "// why": "1:1: a comment begins with # (write # here)",
    "<<<<<<< HEAD": "1:1: a mark left by a merge (keep one of the two versions, and delete the marks)",
    '{ "apps": {} }': ('1:1: this looks like JSON (a site file is TOML: a line [apps.chat], and under it command = "cat")'),
    "é = 1": '1:1: a line begins with a key, a [table] or a # comment, not with "é"',
    'a = "C:\\dir"': (
        r"1:8: a backslash between double quotes begins an escape (write \\ for a backslash, or take single quotes)"
    ),
    'a = "\\u12"': r"1:6: not the number of a character (write \u and four hexadecimal digits, or \U and eight)",
    "[a]\rb = 1": "1:4: a carriage return alone ends no line (save the file with line ends LF or CRLF)",
    'a = "\x01"': (r"1:6: an invisible character stands here, U+0001 (delete it; in text in double quotes, write \u0001)"),
    "a =\u00a01": r"1:4: an invisible character stands here, U+00A0 (delete it; in text in double quotes, write \u00A0)",
}

FAULTS = {**REPEATED, **UNQUOTED, **UNCLOSED, **MISSHAPEN}


@pytest.mark.parametrize("text", FAULTS)
def test_an_error_of_syntax_says_where_what_and_what_to_write(text: str) -> None:
    assert fault_of(text) == FAULTS[text]


def test_what_is_underlined_is_what_is_to_blame() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_document("\trouting = json # why", SITE)

    assert caught.value.render().splitlines()[1:] == ["  \trouting = json # why", "  \t          ^^^^"]


def test_a_line_with_control_characters_is_shown_without_them() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_document("[a]\rb = 1", SITE)

    assert caught.value.render().splitlines()[1] == "  [a]\ufffdb = 1"


def test_a_secret_is_in_no_message() -> None:
    text = 'token = hunter2\nother = "x"'

    with pytest.raises(tomli.TOMLDecodeError) as caught:
        tomli.loads(text)
    fault = explain_syntax(text, text.replace(" hunter2", "********"), caught.value)

    assert fault.message == 'text needs quotes (write "*******")'


@given(st.text(st.sampled_from(list("ab1.=[]{}\"'#\\,-:$ \t\n\r"))) | st.sampled_from(list(FAULTS)).flatmap(
    lambda text: st.integers(0, len(text)).map(lambda end: text[:end])
))  # fmt: skip
def test_no_text_is_too_broken_to_be_explained(text: str) -> None:
    try:
        parse_document(text, SITE)
    except ConfigError as error:
        (problem,) = error.problems
        assert problem.message.startswith(("not valid toml: ", "arrays or tables"))


def test_the_last_statement_of_a_text_is_found_though_it_is_broken() -> None:
    text = '[a]\nb = [\n  "]",\n]\n[c.d] # [e]\nf = """\n[g]'

    assert find_last_statement(text) == (text.index("f ="), ("c", "d"))
