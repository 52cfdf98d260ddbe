"""No credential, good or bad, and no secret of the site file leaves the server: not in its log, its programs, its answers."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection

from tests.auth.canary import (
    CANARY,
    SECRET,
    Hook,
    admin_port,
    ask,
    bad_attempts,
    basic,
    good_token,
    join,
    look_at_admin,
    look_at_answers,
    look_at_processes,
    look_at_tail,
    serve_hook,
    upgrade,
    write_site,
)
from tests.cli.serving import scalesocket, serving

Seen = list[tuple[str, str]]
"""Where it was seen, and the text."""


def get_ticket(port: int, app: str, *fields: str) -> str:
    answer = ask(port, f"POST /{app}/api/lobby/ticket", *fields, "Content-Length: 0")
    ticket: str = json.loads(answer.partition("\r\n\r\n")[2])["ticket"]
    return ticket


def join_with_everything(port: int, token: str, tickets: dict[str, str]) -> dict[str, ClientConnection]:
    """Open a client with each kind of credential."""
    return {
        "header": join(port, "/jwt/header", authorization=f"Bearer {token}"),
        "subprotocol": join(port, "/jwt/subprotocol", token),
        "cookie": join(port, "/jwt/cookie", cookie=f"session={token}; theme=dark"),
        "query": join(port, f"/jwt/query?seat=3&token={token}"),
        "ticket": join(port, f"/jwt/lobby?seat=3&ticket={tickets['jwt']}"),
        "opaque": join(port, f"/opaque/lobby?token={CANARY}", cookie=f"session={CANARY}"),
        "opaque header": join(port, "/opaque/header", authorization=f"Bearer {CANARY}", cookie=f"session={CANARY}"),
        "opaque subprotocol": join(port, "/opaque/subprotocol", CANARY),
        "basic": join(port, "/basic/lobby", authorization=basic(CANARY), remote_user=CANARY),
        "hook cookie": join(port, f"/hook/cookie?token={CANARY}", cookie=f"session={CANARY}"),
        "hook header": join(port, "/hook/header", authorization=f"Bearer {CANARY}"),
        "hook basic": join(port, "/hook/basic", authorization=basic(CANARY)),
        "hook query": join(port, f"/hook/query?seat=3&token={CANARY}"),
        "hook ticket": join(port, f"/hook/lobby?ticket={tickets['hook']}"),
        "a place that is not read": join(port, f"/cookie/subprotocol?ticket={CANARY}", CANARY, authorization=f"Bearer {CANARY}"),
    }


def listen(clients: dict[str, ClientConnection]) -> Iterator[tuple[str, str]]:
    """Send a message from each client, and yield what it receives."""
    for name, client in clients.items():
        client.send("hello")
        heard = [client.recv(timeout=10) for _ in range(3)]  # its environment, its join record, its message
        assert "record hello" in heard
        yield from ((f"the program of {name}", str(text)) for text in heard)
        yield f"the response to {name}", str(client.response)


def be_refused(port: int) -> Iterator[tuple[str, str]]:
    """Make every wrong attempt, and yield the answers."""
    for app in ("jwt", "opaque", "basic", "hook", "broken", "dead", "keys"):
        for path, fields in bad_attempts(app):
            yield f"the answer to {path.partition('?')[0]} {fields}", upgrade(port, path, *fields)
            yield f"the page {app}", ask(port, f"GET {path}", *fields)
            yield f"the ticket of {app}", ask(port, f"POST /{app}/api/lobby/ticket", *fields, "Content-Length: 0")
    yield "a broken head", ask(port, f"GET /jwt/lobby?token={CANARY}", f"Authorization: Bearer {CANARY}", ": broken")


def edit(folder: Path, hook: str) -> Seen:
    """Replace every secret, and break the site file and the files that it names, one after the other."""
    file = write_site(folder, hook, SECRET[::-1] + CANARY)
    seen = [("diff", scalesocket("diff", str(file)).out)]
    assert seen[0][1].count("(another)") >= 6, seen[0][1]  # of the admin token, and of the secret or the URL of each app
    texts = {name: (folder / name).read_text() for name in ("site.toml", "tokens", "users")}
    seen.append(("reload", scalesocket("reload", str(file)).out))
    breaks = {
        "tokens": f"{CANARY}:ann\nann:{CANARY}\n",
        "users": f"{CANARY}:ann\n",
        "site.toml": texts["site.toml"].replace(CANARY, f"{CANARY}\n", 1),
    }
    for name, text in (*breaks.items(), ("site.toml", texts["site.toml"].replace("recheck", "rechek"))):
        (folder / name).write_text(text)
        for words in (("check",), ("reload",), ("diff",)):
            done = scalesocket(words[0], str(file))
            assert done.code != 0 or (name != "site.toml" and words != ("check",)), (name, words)
            seen.append((f"{words} with a broken {name}", done.out + done.err))
        (folder / name).write_text(texts[name])
    return seen


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_a_canary_in_every_credential_is_found_nowhere(tmp_path: Path) -> None:
    token = good_token()
    needles = [CANARY, token.rpartition(".")[2], *(basic(text).split()[1] for text in (CANARY, f"x{CANARY}"))]
    with serve_hook() as hook, serving("serve", "--no-watch", str(write_site(tmp_path, hook))) as server, ExitStack() as stack:
        port, admin, file = server.port, admin_port(server), tmp_path / "site.toml"
        tickets = {
            "jwt": get_ticket(port, "jwt", f"Authorization: Bearer {token}"),
            "hook": get_ticket(port, "hook", f"Cookie: session={CANARY}"),
        }
        needles += tickets.values()
        clients = join_with_everything(port, token, tickets)
        for client in clients.values():
            stack.enter_context(client)
        seen = [*listen(clients), *be_refused(port)]
        seen += look_at_answers(port, file)
        seen += look_at_admin(admin, SECRET)
        seen += look_at_tail(admin, SECRET, clients["hook cookie"], "/admin/tail?app=hook&room=cookie")
        seen += look_at_processes(server)
        asked = len(Hook.asked)
        server.wait(lambda: len(Hook.asked) > asked, "the hook to be asked about clients again")
        seen += edit(tmp_path, hook)
        seen += look_at_answers(port, file)
        seen += look_at_admin(admin, SECRET[::-1] + CANARY)
        seen.append(("the log", server.output))

    found = {where for where, text in seen for needle in needles if needle in text}
    assert not found
    for sign in ("Cookie", basic(CANARY), f"Bearer {CANARY}", f"token={CANARY}"):
        assert any(sign in text for text in Hook.asked)
