"""A site with a mark in its secrets, clients that send it in every kind of credential, and where it must not be."""

import base64
import hashlib
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import bcrypt
import jwt
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from scalesocket.operations.table import OPERATIONS
from tests.cli.serving import Serving, scalesocket

CANARY: Final = "Canary7f3a9c"
"""A part of every credential and of every secret."""
SECRET: Final = f"secret-{CANARY}-of-the-site-file-32-bytes"
PROGRAM: Final = """
import os, sys
print("environ", dict(os.environ), flush=True)
for line in sys.stdin:
    print("record", line.strip(), flush=True)
"""
JOIN: Final = "join #ID #REMOTE_ADDR query=#QUERY_STRING token=#QUERY_token ticket=#QUERY_ticket"
SITE: Final = """
[server]
bind = "127.0.0.1:0"
log = {{ format = "json", level = "debug" }}
metrics_rooms = true
admin = {{ bind = "127.0.0.1:0", token = {secret} }}

[defaults]
command = [{python}, "-c", {program}]
join_message = {join}

[apps.jwt]
auth = {{ from = ["ticket", "header", "subprotocol", "cookie:session", "query:token"], jwt = {{ secret = {secret} }} }}

[apps.opaque]
auth = {{ from = ["ticket", "header", "subprotocol", "cookie:session", "query:token"], tokens_file = "tokens" }}

[apps.basic]
auth = {{ users_file = "users", header = "Remote-User" }}

[apps.hook]
auth = {{ from = ["ticket", "query:token"], hook = {{ url = "{hook}/ws-auth?key={key}", recheck = "1s" }} }}

[apps.broken]
auth = {{ from = ["header"], hook = {{ url = "{hook}/broken?key={key}", timeout = "5s" }} }}

[apps.dead]
auth = {{ hook = {{ url = "http://127.0.0.1:1/?key={key}" }} }}

[apps.keys]
auth = {{ jwt = {{ keys_url = "{hook}/broken?key={key}" }} }}

[apps.cookie]
auth = {{ anonymous = true, from = ["cookie:session"], jwt = {{ secret = {secret} }} }}
"""

OF_CLUSTERS: Final = {name for name in OPERATIONS if name.startswith("cluster")}
"""Operations that this server, which is no node, refuses."""


def write_site(folder: Path, hook: str, secret: str = SECRET) -> Path:
    file = folder / "site.toml"
    words = {"python": sys.executable, "program": PROGRAM, "join": JOIN, "secret": secret}
    file.write_text(SITE.format(hook=hook, key=secret, **{name: json.dumps(word) for name, word in words.items()}))
    for name in ("tokens", "users"):
        (folder / name).touch(0o600)
    (folder / "tokens").write_text(f"ann:{hashlib.sha256(CANARY.encode()).hexdigest()}\n")
    (folder / "users").write_bytes(b"ann:" + bcrypt.hashpw(CANARY.encode(), bcrypt.gensalt(4)) + b"\n")
    file.chmod(0o600)
    return file


def good_token() -> str:
    return jwt.encode({"sub": "ann", "aud": "jwt", "exp": time.time() + 600}, SECRET, "HS256")


def basic(password: str) -> str:
    return f"Basic {base64.b64encode(f'ann:{password}'.encode()).decode()}"


class Hook(BaseHTTPRequestHandler):
    """The owner's server: it sees every credential. At `/broken` it repeats what it is asked, in a response that is no answer."""

    asked: Final[list[str]] = []
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with keys that are none."""
        self.answer(200, json.dumps({"keys": [{"kty": "oct", "k": CANARY}], CANARY: CANARY}))

    def do_POST(self) -> None:
        """Answer a question."""
        question = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.asked.append(f"{self.path} {question}")
        if self.path.startswith("/broken"):
            self.answer(200, json.dumps({"user": 1, CANARY: question, "rooms": question}))
        elif f"x{CANARY}" in question or basic(f"x{CANARY}") in question:
            self.answer(401, question)
        else:
            self.answer(200, '{"user": "ann"}')

    def answer(self, status: int, body: str) -> None:
        """Send a response."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", f"session={CANARY}")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def serve_hook() -> Iterator[str]:
    """Serve the hook on a free port; yield its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def join(port: int, path: str, token: str = "", **headers: str) -> ClientConnection:
    """Open a websocket; with `token`, it is sent as a subprotocol."""
    protocols = [Subprotocol("bearer"), Subprotocol(token)] if token else None
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return connect(f"ws://127.0.0.1:{port}{path}", subprotocols=protocols, additional_headers=fields, proxy=None)


def ask(port: int, line: str, *fields: str) -> str:
    """Send a request head; return everything that the server answers."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        head = "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", "Connection: close", *fields])
        sock.sendall(f"{head}\r\n\r\n".encode())
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    return answer.decode(errors="replace")


def upgrade(port: int, path: str, *fields: str) -> str:
    """Ask for an upgrade that is refused; return the answer."""
    key = ("Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")
    return ask(port, f"GET {path}", "Connection: Upgrade", *key, *fields)


def bad_attempts(app: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield path and fields of attempts that are refused, with the canary in every place."""
    room, bad = f"/{app}/lobby", f"x{CANARY}"
    yield room, (f"Authorization: Bearer {bad}",)
    yield room, (f"Authorization: Bearer {bad}, Bearer {bad}",)
    yield room, (f"Authorization: {basic(bad)}",)
    yield room, (f"Authorization: Basic {bad}!",)
    yield room, (f"Authorization: {bad}",)
    yield room, (f"Authorization: Digest username={bad}",)
    yield room, (f"Sec-WebSocket-Protocol: bearer, {bad}",)
    yield room, (f"Cookie: session={bad}",)
    yield room, (f"Remote-User: {bad}", f"Remote_User: {bad}")
    yield f"{room}?token={bad}&ticket={bad}", ()
    yield f"{room}?ticket={bad}", ()
    yield f"/nowhere/lobby?token={bad}&ticket={bad}", (f"Authorization: Bearer {bad}",)
    yield f"/{app}/no%2Froom?token={bad}", (f"Authorization: Bearer {bad}",)
    yield room, (f"Authorization: Bearer {bad}", "Origin: https://evil.example")


def descendants(pid: int) -> Iterator[int]:
    """Yield a process and all below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from descendants(int(child))


def look_at_processes(server: Serving) -> Iterator[tuple[str, str]]:
    for pid in descendants(server.process.pid):
        for name in ("cmdline", "environ"):
            yield f"/proc/{pid}/{name}", Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")


def admin_port(server: Serving) -> int:
    match = re.search(r"admin API at http://\S+:(\d+)", server.output)
    assert match is not None, server.output
    return int(match[1])


def look_at_answers(port: int, file: Path) -> Iterator[tuple[str, str]]:
    for path in ("/", "/metrics", "/ready", "/health", "/api/apps/", "/jwt/", "/jwt/api/rooms/", "/jwt/api/lobby/connections"):
        yield path, ask(port, f"GET {path}")
    as_json = ("--format", "json")
    for words in (
        *[(name, *form) for name in ("status", "rooms", "clients", "diff", "check") for form in ((), as_json)],
        ("show",),
        ("show", "--origin"),
        ("reload", "--dry-run"),
        ("reload", "--dry-run", *as_json),
        ("kick", "nowhere/lobby", "--user", "nobody"),
    ):
        done = scalesocket(words[0], str(file), *words[1:])
        yield " ".join(words), done.out + done.err
    for app in ("jwt", "opaque", "basic", "hook", "broken", "dead", "keys", "cookie"):
        yield f"show {app}", scalesocket("show", str(file), app).out


def look_at_admin(port: int, token: str) -> Iterator[tuple[str, str]]:
    """Ask for everything that the admin API shows; with wrong tokens, too."""
    names = [f"/admin/{name}" for name, operation in OPERATIONS.items() if not operation.changes and name not in OF_CLUSTERS]
    pages = ("/health", "/ready", "/metrics", "/api/apps/", "/api/openapi.json")
    rooms = [
        f"/{app}/api/{rest}" for app in ("jwt", "hook") for rest in ("rooms/", "lobby/", "lobby/connections/", "lobby/metadata/")
    ]
    good, bad = f"Authorization: Bearer {token}", f"x{CANARY}"
    for path in (*names, *pages, *rooms):
        answer = ask(port, f"GET {path}", good)
        assert answer.startswith("HTTP/1.1 200 ") or path in rooms, answer
        yield f"admin {path}", answer
    yield "admin, unknown", ask(port, f"GET /nowhere?token={CANARY}", good, f"Cookie: session={CANARY}")
    yield "admin, rooms of none", ask(port, "GET /admin/rooms?app=nowhere", good)
    for field in (f"Bearer {bad}", basic(bad), bad):
        yield "admin, wrong token", ask(port, f"GET /admin/status?token={bad}", f"Authorization: {field}")
    yield "admin, wrong body", ask(port, "POST /admin/kick", good, "Content-Length: 2", "", "{}")


def look_at_tail(port: int, token: str, client: ClientConnection, path: str) -> Iterator[tuple[str, str]]:
    """Read the stream of a room's messages until the client's next one has passed."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        stream = b""
        while b"event: begin" not in stream:
            stream += sock.recv(65536)
        client.send("watched")
        while b"record watched" not in stream:
            stream += sock.recv(65536)
    yield f"admin {path}", stream.decode(errors="replace")
