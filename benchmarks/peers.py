"""The servers that are compared: how each is found, which version it is, how it is told to run a setup."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.programs.behind_tls import find_proxy

PROGRAMS: Final = Path(__file__).with_name("programs")
ROOT: Final = PROGRAMS.parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a server is to run in every room."""

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
    """Where a server is to run."""

    port: int
    folder: Path
    """For the files it needs; `certificate.pem` and `key.pem` are there when the setup asks for TLS."""

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One server in the comparison."""

    name: str
    title: str
    hint: str
    """How to get it."""
    find_version: Callable[[], str | None]
    """What is installed; None when nothing is."""
    make_command: Callable[[Setup, Place], list[str] | None]
    """The argv for a setup; None when this server cannot do it."""
    levels: int = 1
    """Generations of its process tree that are the server itself; what is below them are backends."""
    has_rooms: bool = True
    """Whether the clients of a room share one backend."""


def run_version(*command: str) -> str | None:
    """The first line a program says of itself; None when it is not on PATH or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return next(iter((done.stdout + done.stderr).splitlines()), "") if done.returncode == 0 else None


def find_packages(*names: str) -> str | None:
    """The versions of installed Python packages; None when one is missing."""
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


def write_site(setup: Setup, place: Place) -> str:
    """The site file of a setup; everything that is not named is at its default."""
    lines = ["[server]", f'bind = "127.0.0.1:{place.port}"']
    if setup.is_tls:
        lines.append(f"tls = {{ certificate = {json.dumps(str(place.certificate))}, key = {json.dumps(str(place.key))} }}")
    lines += ["", "[apps.bench]", f"command = {json.dumps(setup.command)}"]
    lines.append("max_rooms = 4000  # a thousand are opened at once, while a thousand may still be stopping")
    if setup.is_json:
        lines.append('routing = "json"')
    if setup.is_compressed:
        lines.append("compression = true")
    return "\n".join([*lines, ""])


def ours(setup: Setup, place: Place) -> list[str]:
    site = place.folder / "site.toml"
    site.write_text(write_site(setup, place))
    return [sys.executable, "-m", "scalesocket", "serve", str(site)]


def ours_watched(setup: Setup, place: Place) -> list[str] | None:
    """The same site, served by a program that watches the loop."""
    *_, site = ours(setup, place)
    return [sys.executable, str(PROGRAMS / "stalls.py"), site, str(place.folder / "stalls")]


def rust(setup: Setup, place: Place) -> list[str] | None:
    if setup.is_tls or setup.is_compressed:
        return None
    json_flags = ["--json"] if setup.is_json else []
    command, *arguments = setup.command
    return ["scalesocket-rust", "--addr", f"127.0.0.1:{place.port}", *json_flags, command, "--", *arguments]


def rust_behind(proxy: str) -> Callable[[Setup, Place], list[str] | None]:
    """The Rust original, which has no TLS, behind a proxy that has."""

    def make_command(setup: Setup, place: Place) -> list[str] | None:
        inner = find_free_port()
        command = rust(dataclasses.replace(setup, is_tls=False), dataclasses.replace(place, port=inner))
        if command is None or not setup.is_tls:
            return None
        words = [proxy, str(place.port), str(place.certificate), str(place.key), str(inner)]
        return [sys.executable, str(PROGRAMS / "behind_tls.py"), *words, *command]

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
    """A server that runs `cat` in every room and nothing else; `{port}` in its argv is replaced."""
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
            levels=3,  # the program that starts both, the proxy, its workers and the server
        )
        for proxy, title, package in (("nginx", "nginx", "nginx-light"), ("haproxy", "HAProxy", "haproxy"))
    ),
)


def find_free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def server_environment() -> dict[str, str]:
    """The environment of every server: ours, and the tree on Python's path, so that nothing has to be installed."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
