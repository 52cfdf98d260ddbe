"""Targets as text for people: what an app runs or connects to, in the log, the banner and `status`."""

import shlex
from collections.abc import Sequence

from scalesocket.config.model import App


def describe_target(app: App) -> str:
    """Describe the target of an app on one line: `python3 pong.py`, `tcp 127.0.0.1:4000`, `unix /run/mud.sock`.

    An app without rooms is `pages`.
    """
    if not app.has_rooms:
        return "pages"
    if app.command is not None:
        return quote_command(app.command) + (f" (tcp, port {app.port})" if app.port is not None else "")
    return f"tcp {app.tcp}" if app.tcp is not None else f"unix {app.unix}"


def quote_command(words: Sequence[str]) -> str:
    """Write a command for a shell, on one line, with control characters in the form `$'\\n'`."""
    return " ".join(map(_quote, words))


def _quote(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in escaped) + "'"
