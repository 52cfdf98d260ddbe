"""The servers in the comparison: how each is found, its version, and its command for a setup."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import jwt

from benchmarks.programs.behind_tls import find_proxy

PROGRAMS: Final = Path(__file__).with_name("programs")
ROOT: Final = PROGRAMS.parent.parent
TOKENS: Final = 1000
TOKEN_LIFETIME: Final = 24 * 3600
"""Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a server runs in every room."""

    command: tuple[str, ...] = ("cat",)
    is_json: bool = False
    is_compressed: bool = False
    is_tls: bool = False


PLAIN: Final = Setup()
JSON: Final = Setup(is_json=True)
TICK: Final = Setup(command=(sys.executable, str(PROGRAMS / "tick.py"), "60", "100"))
COMPRESSED: Final = Setup(is_compressed=True)
TLS: Final = Setup(is_tls=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Port and folder of a server."""

    port: int
    folder: Path
    """Holds its files; with TLS also `certificate.pem` and `key.pem`."""

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def bearers(self) -> Path:
        """One token per line, of a server that wants tokens."""
        return self.folder / "bearers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One server in the comparison."""

    name: str
    title: str
    hint: str
    """How to install it."""
    find_version: Callable[[], str | None]
    """Returns the installed version; None if it is not installed."""
    make_command: Callable[[Setup, Place], list[str] | None]
    """Returns the argv for a setup; None if the server does not support it."""
    levels: int = 1
    """Generations of its process tree that are the server itself; deeper ones are backends."""
    ready: str = ""
    """A word of its log when it is ready, if that is later than its first accepted connection."""
    has_rooms: bool = True
    """Whether the clients of a room share one backend."""
    wants_tokens: bool = False
    """Whether each client sends a token of `Place.bearers`, which `make_command` writes."""


def is_ours(peer: str) -> bool:
    """Whether a peer of this name is this server, in one of its settings."""
    return peer.split("-")[0] == "ours"


def run_version(*command: str) -> str | None:
    """Return the first line of a command's output; None if the command is not on PATH or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return next(iter((done.stdout + done.stderr).splitlines()), "") if done.returncode == 0 else None


def find_packages(*names: str) -> str | None:
    """Return the versions of installed Python packages; None if one is missing."""
    try:
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_ours() -> str | None:
    if importlib.util.find_spec("scalesocket") is None or importlib.util.find_spec("scalesocket.__main__") is None:
        return None
    described = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return f"{find_packages('scalesocket') or 'scalesocket, not installed'}{f' at {described}' if described else ''}"


def write_site(setup: Setup, place: Place, workers: int = 1) -> str:
    """Return the site file of a setup; all other keys have their defaults."""
    lines = ["[server]", f'bind = "127.0.0.1:{place.port}"']
    if workers > 1:
        lines.append(f"workers = {workers}")
    if setup.is_tls:
        lines.append(f"tls = {{ certificate = {json.dumps(str(place.certificate))}, key = {json.dumps(str(place.key))} }}")
    lines += ["", "[apps.bench]", f"command = {json.dumps(setup.command)}"]
    lines.append("max_rooms = 4000  # a thousand are opened at once, while a thousand may still be stopping")
    if setup.is_json:
        lines.append('routing = "json"')
    if setup.is_compressed:
        lines.append("compression = true")
    return "\n".join([*lines, ""])


def ours(setup: Setup, place: Place, workers: int = 1) -> list[str]:
    site = place.folder / "site.toml"
    site.write_text(write_site(setup, place, workers))
    return [sys.executable, "-m", "scalesocket", "serve", str(site)]


def ours_with_jwt(setup: Setup, place: Place) -> list[str]:
    """Return the command for the same site with `auth.jwt`, and write tokens for a thousand users.

    Each token is used by a few clients only, so that a cache of verified tokens would gain little.
    """
    command = ours(setup, place)
    secret = secrets.token_hex(32)
    site = place.folder / "site.toml"
    site.write_text(f"{site.read_text()}auth = {{ jwt = {{ secret = {json.dumps(secret)} }} }}\n")
    expires_at = int(time.time()) + TOKEN_LIFETIME
    claims = ({"sub": f"user-{number}", "aud": "bench", "exp": expires_at} for number in range(TOKENS))
    place.bearers.write_text("".join(jwt.encode(each, secret, "HS256") + "\n" for each in claims))
    return command


def ours_watched(setup: Setup, place: Place) -> list[str] | None:
    """Return the command for the same site, on a server that measures stalls of its event loop."""
    *_, site = ours(setup, place)
    return [sys.executable, str(PROGRAMS / "stalls.py"), site, str(place.folder / "stalls")]


def rust(setup: Setup, place: Place) -> list[str] | None:
    if setup.is_tls or setup.is_compressed:
        return None
    json_flags = ["--json"] if setup.is_json else []
    command, *arguments = setup.command
    return ["scalesocket-rust", "--addr", f"127.0.0.1:{place.port}", *json_flags, command, "--", *arguments]


def rust_behind(proxy: str) -> Callable[[Setup, Place], list[str] | None]:
    """Return the command of the Rust original, which has no TLS, behind a proxy with TLS."""

    def make_command(setup: Setup, place: Place) -> list[str] | None:
        inner = find_free_port()
        command = rust(dataclasses.replace(setup, is_tls=False), dataclasses.replace(place, port=inner))
        if command is None or not setup.is_tls:
            return None
        argv = [proxy, str(place.port), str(place.certificate), str(place.key), str(inner)]
        return [sys.executable, str(PROGRAMS / "behind_tls.py"), *argv, *command]

    return make_command


def find_rust_behind(proxy: str, flag: str) -> str | None:
    path, original = find_proxy(proxy), run_version("scalesocket-rust", "--version")
    version = path and run_version(path, flag)
    return f"{original}, {version}" if original and version else None


def node(setup: Setup, place: Place) -> list[str] | None:
    if setup not in (PLAIN, TLS):
        return None
    pair = [str(place.certificate), str(place.key)] if setup.is_tls else []
    return ["node", str(PROGRAMS / "ws_server.cjs"), str(place.port), *pair]


def quart(setup: Setup, place: Place) -> list[str] | None:
    if setup.is_json or setup.command != PLAIN.command:
        return None
    pair = [str(place.certificate), str(place.key)] if setup.is_tls else []
    return [sys.executable, str(PROGRAMS / "quart_app.py"), str(place.port), *pair]


def only_plain(*command: str) -> Callable[[Setup, Place], list[str] | None]:
    """Return the command of a server that only supports `cat` in every room; `{port}` in its argv is replaced."""
    return lambda setup, place: [word.format(port=place.port) for word in command] if setup == PLAIN else None


def find_node_ws() -> str | None:
    version = run_version("node", "-p", "'ws ' + require('ws/package.json').version + ', node ' + process.version")
    return version if version and version.startswith("ws ") else None


PEERS: Final = (
    Peer(
        name="ours",
        title="scalesocket",
        hint="this tree",
        find_version=find_ours,
        make_command=ours,
        levels=2,  # the gateway, and its spawner
    ),
    Peer(
        name="ours-2",
        title="scalesocket, 2 workers",
        hint="this tree",
        find_version=find_ours,
        make_command=partial(ours, workers=2),
        levels=3,  # the supervisor, its workers, and a spawner for each
        ready="serves",  # the supervisor listens before there are workers
    ),
    Peer(
        name="ours-jwt",
        title="scalesocket, with tokens",
        hint="this tree",
        find_version=find_ours,
        make_command=ours_with_jwt,
        levels=2,
        wants_tokens=True,
    ),
    Peer(
        name="rust",
        title="the Rust original",
        hint="cargo install scalesocket --root …, linked as scalesocket-rust",
        find_version=lambda: run_version("scalesocket-rust", "--version"),
        make_command=rust,
    ),
    Peer(
        name="quart",
        title="Quart on Hypercorn",
        hint="installed with scalesocket",
        find_version=lambda: find_packages("quart", "hypercorn", "uvloop"),
        make_command=quart,
    ),
    Peer(
        name="websocketd",
        title="websocketd",
        hint="apt-get install websocketd",
        find_version=lambda: run_version("websocketd", "--version"),
        make_command=only_plain("websocketd", "--address=127.0.0.1", "--port={port}", "cat"),
        has_rooms=False,
    ),
    Peer(
        name="node",
        title="Node ws",
        hint="npm install ws, with NODE_PATH set to its node_modules",
        find_version=find_node_ws,
        make_command=node,
    ),
    Peer(
        name="picows",
        title="picows",
        hint="pip install picows",
        find_version=lambda: find_packages("picows", "uvloop"),
        make_command=only_plain(sys.executable, str(PROGRAMS / "picows_app.py"), "{port}"),
    ),
    *(
        Peer(
            name=f"rust-{proxy}",
            title=f"the Rust original behind {title}",
            hint=f"as rust, and apt-get install {package}",
            find_version=partial(find_rust_behind, proxy, "-v"),
            make_command=rust_behind(proxy),
            levels=3,  # the program that starts both; proxy and server; workers
        )
        for proxy, title, package in (("nginx", "nginx", "nginx-light"), ("haproxy", "HAProxy", "haproxy"))
    ),
)


def find_free_port() -> int:
    """Return a free port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
