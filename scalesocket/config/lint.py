"""Settings of an app that are valid and probably mistakes: keys without effect, shell syntax, unknown placeholders."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from scalesocket.config.conflicts import TARGETS, Conflict
from scalesocket.config.model import App

OF_PAGES: Final = frozenset({"mount", "static", "static_headers"})
"""Keys that mean something for an app without a target."""

OF_CHILDREN: Final = ("cwd", "env", "pass_env", "user", "group", "limits", "stop_signal")
"""Keys that mean something for a command alone."""

_VARIABLES: Final = ("ID", "ROOM", "REMOTE_ADDR", "QUERY_STRING")
_PLACEHOLDER: Final = re.compile(rf"#(?!(?:{'|'.join(_VARIABLES)}|QUERY_)|[0-9A-Fa-f]{{3,8}}\b)([A-Z][A-Z_]+)")  # nor a colour
_SHELL_WORD: Final = re.compile(r"\|\|?|&&?|;|\d*[<>]{1,2}(?:&\d)?")


def find_suspicious(app: App, own: Mapping[str, object]) -> Iterator[Conflict]:
    """What is allowed but hardly meant, in a valid app; `own` are its own keys as they stand in the file."""
    if not app.has_rooms:
        for key in own:
            if key not in OF_PAGES:
                yield Conflict(key, f"has no effect without a target (one of: {', '.join(TARGETS)})", is_about_key=True)
        return
    if isinstance(own.get("command"), str):
        for word in (app.command or ())[1:]:
            if _SHELL_WORD.fullmatch(word):
                yield Conflict(
                    "command", f'no shell runs, so {word!r} is an argument like others (write ["sh", "-c", "…"] for a shell)'
                )
                break
    if app.command is None:
        for key in OF_CHILDREN:
            if key in own:
                yield Conflict(key, "has no effect without command", is_about_key=True)
    if "static_headers" in own and app.static is None:
        yield Conflict("static_headers", "has no effect without static", is_about_key=True)
    if "byte_order" in own and "gwsocket" not in (app.routing.client, app.routing.server):
        yield Conflict("byte_order", "has no effect without gwsocket routing", is_about_key=True)
    if own.get("client_keys") and app.routing.client != "json":
        yield Conflict(
            "client_keys", 'has no effect without json routing of clients\' messages (set routing = "json")', is_about_key=True
        )
    if "history" in own and app.history is not None and app.history.keep == "tagged" and app.routing.server != "json":
        yield Conflict("history", 'keeps nothing: only json routing from the server can tag messages (set routing = "json")')
    for key in ("join_message", "leave_message"):
        for word in _PLACEHOLDER.findall(str(getattr(app, key) or "")):
            known = f"it knows #{', #'.join(_VARIABLES)} and #QUERY_<PARAM>"
            near = next(iter(get_close_matches(word, _VARIABLES, n=1, cutoff=0.7)), f"QUERY_{word}")
            yield Conflict(key, f"#{word} is no variable and stays as it is written (did you mean #{near}? {known})")
    for room in app.rooms or ():
        if room in (".", "..") or not re.fullmatch(app.room_pattern, room):
            yield Conflict("rooms", f"no client can join {room!r} (room_pattern does not match it)")
