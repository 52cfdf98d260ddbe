"""The error of a refused edit without secrets, for `/ready` and the API, which everyone may read."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from scalesocket.config.problems import ConfigError, Severity
from scalesocket.errors import ScalesocketError

_LEADING_VALUE: Final = re.compile(r"""(["'])(?:\\.|(?!\1).)*\1""")
_HINT_OR_VALUE: Final = re.compile(r"""\(|(?<![A-Za-z])["']|(?<=unknown value)|(?<=is not set)|, not (?!an? )""")
_PATH: Final = re.compile(r"\S*/\S*")


def redact_error(error: ScalesocketError) -> str:
    """Return the first problem: the file's name, line, column and key, and the message up to a hint or a quoted value.

    Hints and values may hold a secret, such as a password that was written without quotes. The log and the control socket
    get the whole error.
    """
    if not isinstance(error, ConfigError):
        return redact_text(str(error))
    errors = [problem for problem in error.problems if problem.severity is Severity.ERROR]
    first = errors[0]
    name = Path(first.place.file.name) if first.place.file is not None else None
    text = str(replace(first, place=replace(first.place, file=name), message=redact_text(first.message)))
    return text + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")


def redact_text(message: str) -> str:
    """Return a message up to its first hint or value. A value that it begins with and paths become `…`."""
    leading = _LEADING_VALUE.match(message)
    rest = message[leading.end() :] if leading is not None else message
    return ("…" if leading is not None else "") + _PATH.sub("…", _HINT_OR_VALUE.split(rest, maxsplit=1)[0].rstrip())
