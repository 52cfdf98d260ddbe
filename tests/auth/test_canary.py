"""No credential, good or bad, and no secret of the site file leaves the server: not in its log, its programs, its answers."""

import base64
import hashlib
import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import bcrypt
import jwt
import pytest
from websockets.exceptions import InvalidHandshake
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.cli.serving import Serving, scalesocket, serving

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

[defaults]
command = [{python}, "-c", {program}]
join_message = {join}

[apps.jwt]
auth = {{ from = ["ticket", "header", "subprotocol", "cookie:session", "query:token"], jwt = {{ secret = {secret} }} }}

[apps.opaque]
auth = {{ from = ["ticket", "header", "subprotocol", "cookie:session", "query:token"], tokens_file = "tokens" }}

[apps.basic]
auth = {{ users_file = "users", header = "Remote-User" }}
"""


def write_site(folder: Path, secret: str = SECRET) -> Path:
    file = folder / "site.toml"
    words = {"python": sys.executable, "program": PROGRAM, "join": JOIN, "secret": secret}
    file.write_text(SITE.format(**{name: json.dumps(word) for name, word in words.items()}))
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


def look_at_answers(port: int, file: Path) -> Iterator[tuple[str, str]]:
    for path in ("/", "/metrics", "/ready", "/health", "/api/apps/", "/jwt/", "/jwt/api/rooms/", "/jwt/api/lobby/connections"):
        yield path, ask(port, f"GET {path}")
    for words in (
        ("status", "--format", "json"),
        ("rooms",),
        ("clients", "--format", "json"),
        ("diff",),
        ("show",),
        ("show", "--origin"),
        ("check",),
        ("check", "--format", "json"),
        ("reload", "--dry-run"),
    ):
        done = scalesocket(words[0], str(file), *words[1:])
        yield " ".join(words), done.out + done.err


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_a_canary_in_every_credential_is_found_nowhere(tmp_path: Path) -> None:
    file = write_site(tmp_path)
    token = good_token()
    needles = [CANARY, token.rpartition(".")[2], *(basic(text).split()[1] for text in (CANARY, f"x{CANARY}"))]
    seen: list[tuple[str, str]] = []
    with serving("serve", str(file)) as server, ExitStack() as stack:
        port = server.port
        ticket_answer = ask(port, "POST /jwt/api/lobby/ticket", f"Authorization: Bearer {token}", "Content-Length: 0")
        ticket = json.loads(ticket_answer.partition("\r\n\r\n")[2])["ticket"]
        needles.append(ticket)
        clients = {
            "header": join(port, "/jwt/header", authorization=f"Bearer {token}"),
            "subprotocol": join(port, "/jwt/subprotocol", token),
            "cookie": join(port, "/jwt/cookie", cookie=f"session={token}; theme=dark"),
            "query": join(port, f"/jwt/query?seat=3&token={token}"),
            "ticket": join(port, f"/jwt/lobby?seat=3&ticket={ticket}"),
            "opaque": join(port, f"/opaque/lobby?token={CANARY}", cookie=f"session={CANARY}"),
            "opaque header": join(port, "/opaque/header", authorization=f"Bearer {CANARY}", cookie=f"session={CANARY}"),
            "opaque subprotocol": join(port, "/opaque/subprotocol", CANARY),
            "basic": join(port, "/basic/lobby", authorization=basic(CANARY), remote_user=CANARY),
        }
        for name, client in clients.items():
            stack.enter_context(client)
            client.send("hello")
            heard = [client.recv(timeout=10) for _ in range(3)]  # its environment, its join record, its message
            assert "record hello" in heard
            seen += [(f"the program of {name}", str(text)) for text in heard]
            seen.append((f"the response to {name}", str(client.response)))
        for app in ("jwt", "opaque", "basic"):
            for path, fields in bad_attempts(app):
                try:
                    seen.append((f"the answer to {path.partition('?')[0]} {fields}", upgrade(port, path, *fields)))
                except InvalidHandshake as error:  # pragma: no cover
                    seen.append((path, str(error)))
                seen.append((f"the page {app}", ask(port, f"GET {path}", *fields)))
                seen.append((f"the ticket of {app}", ask(port, f"POST /{app}/api/lobby/ticket", *fields, "Content-Length: 0")))
        seen.append(("a broken head", ask(port, f"GET /jwt/lobby?token={CANARY}", f"Authorization: Bearer {CANARY}", ": broken")))
        seen += look_at_answers(port, file)
        seen += look_at_processes(server)

        write_site(tmp_path, SECRET[::-1] + CANARY)
        server.wait_output('"event":"reloaded"')
        file.write_text(file.read_text().replace(CANARY, f"{CANARY}\n", 1))
        server.wait_output("not reloaded")
        seen += look_at_answers(port, file)
        seen.append(("the log", server.output))

    found = {where for where, text in seen for needle in needles if needle in text}
    assert not found
