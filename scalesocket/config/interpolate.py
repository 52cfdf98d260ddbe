"""Interpolation of `${NAME}` in the strings of a site file."""

import re
from collections.abc import Mapping
from typing import Final

_START: Final = re.compile(r"\$\$\{|\$\{")
_REST: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:-|:\?)((?:(?!\$\{)[^}])*))?\}")


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """Replace `${NAME}`, `${NAME:-default}` and `${NAME:?message}` by variables; `$${` gives a literal `${`.

    As in a shell, the forms with a colon treat an empty variable as not set. `$$` and `$NAME` stay as they are, and values of
    variables are not interpolated again. Raises ValueError with a hint for a variable that is not set and has no default, and
    for other forms.
    """
    parts = []
    at = 0
    while start := _START.search(text, at):
        parts.append(text[at : start.start()])
        if start[0] == "$${":
            parts.append("${")
            at = start.end()
            continue
        rest = _REST.match(text, start.end())
        if rest is None:
            written = text[start.start() :].partition("}")
            raise ValueError(f'"{written[0]}{written[1]}" is not a variable (write "${{NAME}}", or "$${{" for a literal "${{")')
        parts.append(_value(rest[1], rest[2], rest[3], environ))
        at = rest.end()
    return "".join((*parts, text[at:]))


def _value(name: str, operator: str | None, word: str | None, environ: Mapping[str, str]) -> str:
    value = environ.get(name)
    if operator is None and value is not None:
        return value
    if operator is not None and value:
        return value
    if operator == ":-":
        return word or ""
    if operator == ":?":
        raise ValueError(f"the variable {name} is not set: {word}" if word else f"the variable {name} is not set")
    raise ValueError(f'the variable {name} is not set (set it, or give a default: "${{{name}:-…}}")')
