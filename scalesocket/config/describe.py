"""What an app runs or connects to, as text for people: in the log, the banner and `status`."""

import shlex
from collections.abc import Sequence

from scalesocket.config.model import App


def describe_target(app: App) -> str:
    """What the rooms of an app run or connect to, on one line: `python3 pong.py`, `tcp 127.0.0.1:4000`, `unix /run/mud.sock`.

    For an app without rooms: `pages`.
    """
    if not app.has_rooms:
        return "pages"
    if app.command is not None:
        return quote_command(app.command) + (f" (tcp, port {app.port})" if app.port is not None else "")
    return f"tcp {app.tcp}" if app.tcp is not None else f"unix {app.unix}"


def quote_command(words: Sequence[str]) -> str:
    """A command as one would type it in a shell, on one line: line ends and other control characters as `$'\\n'`."""
    return " ".join(map(_quote, words))


def _quote(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in escaped) + "'"
