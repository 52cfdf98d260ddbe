"""Settings of an app that are valid but probably mistakes: keys without effect, shell syntax, unknown placeholders."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Final

from scalesocket.config.addresses import UNIX_PEERS, parse_endpoint
from scalesocket.config.admin import SHORTEST_TOKEN
from scalesocket.config.auth_lint import find_suspicious_auth
from scalesocket.config.conflicts import TARGETS
from scalesocket.config.model import App, Server
from scalesocket.config.problems import Finding
from scalesocket.config.urls import is_local_network, is_private_url

STATIC_KEYS: Final = frozenset({"mount", "static", "static_headers"})
"""Keys that have an effect in an app without a target."""

COMMAND_KEYS: Final = ("cwd", "env", "pass_env", "user", "group", "limits", "stop_signal")
"""Keys that have an effect only with a command."""

_PLACEHOLDERS: Final = ("ID", "ROOM", "REMOTE_ADDR", "QUERY_STRING")
_OF_USERS: Final = ("USER", "ROLES", "INFO")
"""Placeholders of apps with `auth`."""
_UNKNOWN_PLACEHOLDER: Final = re.compile(
    rf"#(?!(?:{'|'.join(_PLACEHOLDERS)}|QUERY_)|[0-9A-Fa-f]{{3,8}}\b)([A-Z][A-Z_]+)"  # colours such as #FFAA00 are text
)
_SHELL_WORD: Final = re.compile(r"\|\|?|&&?|;|\d*[<>]{1,2}(?:&\d)?")


def find_suspicious(app: App, own: Mapping[str, object]) -> Iterator[Finding]:
    """Find probable mistakes in a valid app. `own` has the keys that the app itself sets in the file."""
    for key, reason in _keys_without_effect(app, own):
        yield Finding((key,), f"has no effect {reason}", is_about_key=True)
    if not app.has_rooms:
        return
    yield from _shell_syntax(app, own)
    if "history" in own and app.history is not None and app.history.keep == "tagged" and app.routing.server != "json":
        yield Finding(("history",), 'keeps nothing, because only json routing can tag messages (set routing = "json")')
    yield from _unknown_placeholders(app)
    yield from _exposed_hook(app)
    yield from find_suspicious_auth(app)
    for room in app.rooms or ():
        if room in (".", "..") or not re.fullmatch(app.room_pattern, room):
            yield Finding(("rooms",), f"no client can join {room!r}, which room_pattern does not match (change one of the two)")


def find_suspicious_server(server: Server) -> Iterator[Finding]:
    """Find probable mistakes in a valid `[server]` table."""
    admin = server.admin
    if admin is not None and admin.token is not None and len(admin.token) < SHORTEST_TOKEN:
        yield Finding(
            ("admin", "token"), f"has fewer than {SHORTEST_TOKEN} characters (write a random one: openssl rand -hex 32)"
        )
    if admin is not None and not admin.is_unix and not admin.bind.startswith("fd://") and not _is_loopback_bind(admin.bind):
        message = "sends the token unencrypted to other machines, because it has no TLS (use a loopback address, behind a proxy)"
        yield Finding(("admin", "bind"), message)
    if server.trusted_proxies and UNIX_PEERS not in server.trusted_proxies and server.is_on_unix_sockets:
        message = f'no proxy in it can connect, because the server listens on unix sockets alone (write "{UNIX_PEERS}")'
        yield Finding(("trusted_proxies",), message)
    for key in ("metrics", "api"):
        if admin is None and getattr(server, key) == "admin":
            yield Finding((key,), "is served nowhere without admin (set admin, or write false)")


def _is_loopback_bind(bind: str) -> bool:
    host = parse_endpoint(bind).host.partition("%")[0]
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _keys_without_effect(app: App, own: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    if not app.has_rooms:
        yield from ((key, f"without a target (one of: {', '.join(TARGETS)})") for key in own if key not in STATIC_KEYS)
        return
    if app.command is None:
        yield from ((key, "without command") for key in COMMAND_KEYS if key in own)
    if "static_headers" in own and app.static is None:
        yield "static_headers", "without static"
    if "byte_order" in own and "gwsocket" not in (app.routing.client, app.routing.server):
        yield "byte_order", "without gwsocket routing"
    if own.get("client_keys") and app.routing.client != "json":
        yield "client_keys", 'without json routing of clients\' messages (set routing = "json")'


def _shell_syntax(app: App, own: Mapping[str, object]) -> Iterator[Finding]:
    if isinstance(own.get("command"), str):
        for word in (app.command or ())[1:]:
            if _SHELL_WORD.fullmatch(word):
                message = f'no shell runs, so {word!r} is an ordinary argument (write ["sh", "-c", "…"] for a shell)'
                yield Finding(("command",), message)
                return


def _exposed_hook(app: App) -> Iterator[Finding]:
    hook = None if app.auth is None else app.auth.hook
    if hook is not None and not is_private_url(hook.url) and not is_local_network(hook.url):
        yield Finding(("auth", "hook", "url"), "sends credentials over the network without encryption (use https)")


def _unknown_placeholders(app: App) -> Iterator[Finding]:
    for key in ("join_message", "leave_message"):
        for word in _UNKNOWN_PLACEHOLDER.findall(str(getattr(app, key) or "")):
            if word in _OF_USERS:
                if app.auth is None:
                    yield Finding((key,), f"#{word} is sent as text without auth (set auth, or delete it)")
                continue
            known = f"known are #{', #'.join(_PLACEHOLDERS)} and #QUERY_<PARAM>"
            near = next(iter(get_close_matches(word, _PLACEHOLDERS, n=1, cutoff=0.7)), f"QUERY_{word}")
            yield Finding((key,), f"#{word} is not a placeholder and is sent as text (did you mean #{near}? {known})")
