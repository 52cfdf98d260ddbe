"""What keeps a text from being TOML, in words for people who know no more of TOML than the example they began with.

tomli stops at the first fault and says what its grammar wanted there. The text around that offset is looked at again here,
to say what was probably meant, and what to write.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import tomli

from scalesocket.config.broken import CURLY, Broken
from scalesocket.config.positions import Span, scan_positions
from scalesocket.config.problems import key_text, quote

_STRING: Final = re.compile(r'"[^"\\]*"|' + r"'[^']*'")
_NUMBER: Final = re.compile(r"[+-]?\d[\d_.]*")
_NEXT_STATEMENT: Final = re.compile(r"\s*(?:\[|[\w.\-]+[ \t]*=)")
_OTHER_WORDS: Final = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
_NOTHING: Final = ("null", "none", "nil", "undefined")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and the piece of the text that is to blame."""

    message: str
    span: Span


def explain_syntax(text: str, shown: str, error: tomli.TOMLDecodeError) -> Fault:
    """Say what is wrong where tomli stopped. `shown`: the text with its secrets starred out, character for character."""
    broken = Broken(text, shown, error.pos)
    if fault := _invisible(broken):
        return fault
    for beginning, explain in _FAULTS.items():
        if error.msg.startswith(beginning):
            return explain(broken)
    return Fault(error.msg[:1].lower() + error.msg[1:], broken.here)


def _invisible(broken: Broken) -> Fault | None:
    char = broken.char
    if char == "\r":
        return Fault("a carriage return alone ends no line (save the file with line ends LF or CRLF)", broken.here)
    if char and char not in " \t\n" and unicodedata.category(char) in ("Zs", "Cf", "Cc", "Zl", "Zp"):
        form = f"U+{ord(char):04X}"
        return Fault(
            f"an invisible character stands here, {form} (delete it; in text in double quotes, write \\u{form[2:]})", broken.here
        )
    return None


def _value(broken: Broken) -> Fault:
    before = re.sub(r"(?:#[^\n]*|\s)*\Z", "", broken.text[broken.start : broken.at])[-1:]
    opening, _ = broken.unclosed()
    if broken.is_at_end and opening is not None and before != "=":
        return _not_closed(broken, opening)
    if broken.char in ("", "\n", "#", ",", "]", "}"):
        if before == "=":
            return Fault("a value is missing after the equals sign (write one, or take the line out)", broken.here)
        return Fault("a value is missing here (write one, or take the comma out)", broken.here)
    span = broken.rest
    if opening is not None:
        word = re.match(r"[^,\]}\n#]*", broken.text[broken.at :])
        span = Span(broken.at, broken.at + max(1, len(word[0].rstrip() if word else "")))
    written = broken.text[span.start : span.end]
    if written[0] == "=":
        return Fault("one equals sign is enough (take this one out)", broken.here)
    if written.lower() in _OTHER_WORDS:
        return Fault(f"not a value of TOML (write {_OTHER_WORDS[written.lower()]})", span)
    if written.lower() in _NOTHING:
        return Fault("not a value of TOML, which has no word for nothing (leave the key out)", span)
    if written[0] in CURLY:
        return Fault(f"{written[0]} is no quote to TOML (write {broken.example(span)})", span)
    if written[-1] in "\"'":
        return Fault(f"the quote before the text is missing (write {broken.example(span)})", span)
    return Fault(f"text needs quotes (write {broken.example(span)})", span)


def _after_statement(broken: Broken) -> Fault:
    rest = broken.rest
    if broken.brackets:
        return Fault("nothing but a comment may follow a table's header (begin a new line here)", rest)
    after = broken.text[rest.start : rest.end]
    if after in (";", ","):
        return Fault(f'"{after}" has no place after a value (take it out)', rest)
    whole = Span(broken.value_start, rest.end)
    value = broken.text[broken.value_start : broken.at].strip()
    if after in ("]", "}"):
        return Fault(f'"{after}" closes nothing (take it out)', rest)
    if value[:1] not in ("", '"', "'", "[", "{"):
        return _unquoted(broken, whole)
    if _STRING.fullmatch(value) and _STRING.fullmatch(after):
        shown = broken.shown
        items = f"{shown[broken.value_start : broken.at].strip()}, {shown[rest.start : rest.end]}"
        return Fault(f"more than one value (a list is written [{items}])", whole)
    if value[:1] in ('"', "'") and value[0] in after and not _NEXT_STATEMENT.match(after):
        hint = r"write \" for a quote within text" if value[0] == '"' else "put text that holds ' between double quotes"
        return Fault(f"the text ends before this ({hint})", rest)
    return Fault("nothing but a comment may follow a value (begin a new line here, or write # before a comment)", rest)


def _unquoted(broken: Broken, whole: Span) -> Fault:
    written = broken.shown[whole.start : whole.end]
    words = written.split()
    if re.fullmatch(r"[+-]?0\d+", written):
        return Fault(f"a number does not begin with 0 (write {int(written)}, or {quote(written)} for text)", whole)
    if len(words) > 1 and all(_NUMBER.fullmatch(word) for word in words):
        return Fault(f"more than one value (a list is written [{', '.join(words)}])", whole)
    return Fault(f"text needs quotes (write {broken.example(whole)})", whole)


def _no_equals(broken: Broken) -> Fault:
    rest = broken.text[broken.rest.start : broken.rest.end]
    opening, _ = broken.unclosed()
    name = broken.shown[: broken.at].rstrip().rpartition("\n")[2].strip()
    if opening is not None:
        name = re.split(r"[{,]", name)[-1].strip()
    if broken.char == ":":
        return Fault(f'":" where an equals sign belongs (write {name} = …)', broken.here)
    if broken.char == "]":
        return Fault(f'"]" closes nothing (a table begins like this: [{name}])', broken.here)
    if spaced := re.match(r"([\w -]+?)[ \t]*=", rest):
        joined = f"{name} {spaced[1]}".replace(" ", "_")
        return Fault(f"a key is one word (write {joined} = …)", Span(broken.at - len(name) - 1, broken.at + len(spaced[1])))
    return Fault(f'"=" is missing after {name} (write {name} = …)', broken.here)


def _header(broken: Broken) -> Fault:
    name = key_text(broken.path)
    written = re.match(r"[^\]\n#]*", broken.text[broken.key.start :])
    bad = written[0].rstrip() if written else ""
    if broken.char in ("", "\n", "#", "]") or not bad[broken.at - broken.key.start :].strip():
        closing = "]" * len(broken.brackets)
        return Fault(f'"{closing}" is missing at the end of the header (write [{name}])', broken.here)
    blamed = " " if broken.text[broken.at - 1].isspace() else broken.char
    return Fault(
        f"a table's name has no {_named(blamed)} in it (lower-case letters, digits, '-' and '_', as in [apps.my-chat])",
        Span(broken.key.start, broken.key.start + len(bad)),
    )


def _key_part(broken: Broken) -> Fault:
    opening, _ = broken.unclosed()
    if broken.is_at_end and opening is not None and not broken.brackets:
        return _not_closed(broken, opening)
    if broken.char in ("", "\n", ".", "=", "]", "}", ",", "#"):
        return Fault("a name is missing here (write one, as in [apps.chat] or routing = …)", broken.here)
    return Fault(f"a name cannot hold {_named(broken.char)} (lower-case letters, digits, '-' and '_')", broken.here)


def _statement(broken: Broken) -> Fault:
    rest = broken.text[broken.rest.start : broken.rest.end]
    if re.match(r"<{7}|>{7}|={7}", rest):
        return Fault("a mark left by a merge (keep one of the two versions, and delete the marks)", broken.rest)
    if rest.startswith(("//", "/*", ";", "--", "%")):
        return Fault("a comment begins with # (write # here)", broken.here)
    if broken.char == "{":
        return Fault('this looks like JSON (a site file is TOML: a line [apps.chat], and under it command = "cat")', broken.here)
    if broken.char in "]}":
        return Fault(f'"{broken.char}" closes nothing (delete it, or look above for a bracket too many)', broken.here)
    if broken.char == "=":
        return Fault("there is no key before the equals sign (write one)", broken.here)
    return Fault(f"a line begins with a key, a [table] or a # comment, not with {_named(broken.char)}", broken.here)


def _bracket(broken: Broken) -> Fault:
    opening, _ = broken.unclosed()
    if opening is None or broken.is_at_end:
        return _not_closed(broken, broken.at if opening is None else opening)
    line_before = broken.text[opening : broken.at].rpartition("\n")
    is_on_new_line = bool(line_before[1]) and not line_before[2].strip()
    if is_on_new_line and _NEXT_STATEMENT.match(broken.text, broken.at):
        return _not_closed(broken, opening)
    return Fault("a comma is missing before this (or the quote at an end of a text)", broken.rest)


def _not_closed(broken: Broken, opening: int) -> Fault:
    message = (
        'the list that begins here is not closed (write "]" after its last item)'
        if broken.text[opening] == "["
        else 'the table that begins here is not closed (write "}" after its last value)'
    )
    return Fault(message, Span(opening, opening + 1))


def _string(broken: Broken) -> Fault:
    _, opening = broken.unclosed()
    if opening is None:
        return Fault(f"text cannot hold {_named(broken.char)}", broken.here)
    mark = re.match(r"\"\"\"|'''|[\"']", broken.text[opening:])
    closing = mark[0] if mark else '"'
    if len(closing) == 3:
        return Fault(f"the text that begins here is not closed (write {closing} after its last line)", Span(opening, opening + 3))
    end = broken.text.find("\n", opening)
    return Fault(
        f"the text is not closed (write {closing} at its end, on the same line)",
        Span(opening, len(broken.text) if end < 0 else end),
    )


def _backslash(broken: Broken) -> Fault:
    message = r"a backslash between double quotes begins an escape (write \\ for a backslash, or take single quotes)"
    return Fault(message, Span(broken.at - 2, broken.at))


def _code_point(broken: Broken) -> Fault:
    start = broken.text.rfind("\\", 0, broken.at)
    message = r"not the number of a character (write \u and four hexadecimal digits, or \U and eight)"
    return Fault(message, Span(start, broken.at))


def _date(broken: Broken) -> Fault:
    return Fault(f"there is no such date or time (write {broken.example(broken.rest)} for text)", broken.rest)


def _repeated(broken: Broken) -> Fault:
    """A key or a table is there already, or something that leaves no room for it."""
    path, span = broken.path, broken.key
    if broken.unclosed()[0] is not None and not broken.brackets:
        return _repeated_in_braces(broken)
    known = scan_positions(broken.text[: broken.start])
    length = next((size for size in range(len(path), 0, -1) if path[:size] in known), 0)
    if not length:
        return Fault(f"{key_text(path)} is set twice (keep one of the two)", span)
    first = known[path[:length]]
    name, line = key_text(path[:length]), broken.line(first.key.start)
    is_table = first.key == first.value
    if broken.brackets == "[[":
        return Fault(
            f"{name} is there already, in line {line}; no table of a site file is a list (write [{key_text(path)}])", span
        )
    if length < len(path) or (broken.brackets and not is_table):
        written = broken.text[first.value.start : first.value.start + 1]
        if written == "{":
            hint = f"{name} is complete in its braces in line {line} (write this between those braces)"
        else:
            hint = f"{name} has a value in line {line}, so nothing can be within it (keep one of the two)"
        return Fault(hint, span)
    if broken.brackets:
        return Fault(f"the table [{name}] is there already, in line {line} (put the keys of both under one header)", span)
    return Fault(f"{path[-1]} is set twice, first in line {line} (keep one of the two)", span)


def _repeated_in_braces(broken: Broken) -> Fault:
    opening = broken.unclosed()[0] or broken.start
    keys = list(re.finditer(r"[{,]\s*([^\s={,]+)[ \t]*=", broken.text[opening : broken.at]))
    if not keys:
        return Fault("a key is set twice in one table (keep one of the two)", broken.here)
    return Fault(
        f"{keys[-1][1]} is set twice (keep one of the two)", Span(opening + keys[-1].start(1), opening + keys[-1].end(1))
    )


def _named(char: str) -> str:
    return "space" if char == " " else f'"{char}"'


_FAULTS: Final[Mapping[str, Callable[[Broken], Fault]]] = {
    "Invalid value": _value,
    "Expected newline": _after_statement,
    "Expected '=' after a key": _no_equals,
    "Expected ']' at the end": _header,
    "Expected ']]' at the end": _header,
    "Invalid initial character": _key_part,
    "Invalid statement": _statement,
    "Unclosed": _bracket,
    "Unterminated string": _string,
    "Illegal character": _string,
    "Found invalid character": _string,
    "Expected \"'": _string,
    "Unescaped": _backslash,
    "Invalid hex": _code_point,
    "Escaped character": _code_point,
    "Invalid date": _date,
    "Cannot declare": _repeated,
    "Cannot overwrite": _repeated,
    "Cannot mutate": _repeated,
    "Cannot redefine": _repeated,
    "Duplicate inline": _repeated_in_braces,
}
"""How to look at a fault, by the beginning of what tomli says of it."""
