"""Invalid messages of clients: the programs of the examples and of the templates ignore them, and go on serving."""

import json
import math
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import create_connection
from typing import Any, Final, NoReturn

import pytest
from websockets.sync.client import connect

from tests.cli.serving import scalesocket
from tests.examples.listening import run_until_listening
from tests.ports import free_port

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "examples"
TEMPLATES: Final = ROOT / "scalesocket/cli/templates"
DEADLINE: Final = 20.0
"""Seconds for a program to answer, or to end."""

VALUES: Final[tuple[Any, ...]] = (
    None, True, False, [], {}, [[]], [1, 2], [None] * 3, {"a": {"b": 1}}, "", "x", "left\n", "\x00\x1b[2J", "\ud800", "x" * 5000,
    0, -1, 0.5, 7, 1 << 31, 1 << 63, -(10**400), 10**400, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf,
)  # fmt: skip
LINES: Final = (
    b"",
    b"null",
    b"[]",
    b'"x"',
    b"1e999",
    b"{",
    b"\xff\xfe\x00",
    b"\x00\x00",
    b"{}",
    b'{"_from":null}',
    b'{"_from":[]}',
    b'{"_from":1,"t":' + b"[" * 100_000,
    b'{"_from":1,"t":' + b"9" * 5_000 + b"}",
    b'{"_from":1,"t":"' + b"x" * 500_000 + b'"}',
)


@dataclass(frozen=True)
class Program:
    """A program that reads JSON, and the messages of its clients."""

    path: Path
    messages: tuple[dict[str, Any], ...]
    """One valid message of each kind; rubbish has a wrong value in one of its keys."""
    welcome: str
    """The kind of message that only clients that have joined receive."""
    proof: dict[str, Any] = field(default_factory=dict)
    """A valid message, sent at the end …"""
    answer: str = ""
    """… and the kind of its answer."""

    def rubbish(self) -> Iterator[bytes]:
        for message in self.messages:
            for key in (*message, "more"):
                for value in VALUES:
                    yield json.dumps({**message, key: value, "_from": 1}).encode()
            for key in message:
                yield json.dumps({name: value for name, value in message.items() if name != key} | {"_from": 1}).encode()
        for value in VALUES:
            yield json.dumps({"t": value, "_from": 1}).encode()
            yield json.dumps({"t": "Join", "_event": "join", "_from": 2, "name": value}).encode()
            yield json.dumps({"t": "Leave", "_event": "leave", "_from": 3, "name": value}).encode()
        yield from LINES


PROGRAMS: Final = {
    "arena": Program(
        EXAMPLES / "arena/arena.py",
        ({"t": "Steer", "x": 0.5, "y": 0.5}, {"t": "Steer", "x": 1e308, "y": -1e308}, {"t": "Dash"}),
        welcome="Welcome",
        proof={"t": "Steer", "x": 1, "y": 0},
        answer="State",
    ),
    "whiteboard": Program(
        EXAMPLES / "whiteboard/whiteboard.py",
        (
            {"t": "Add", "x": 0.5, "y": 0.5},
            {"t": "Change", "id": 1, "x": 0.5, "y": 0.5, "text": "x", "colour": "pink"},
            {"t": "Draw", "line": 1, "points": [[0, 0]]},
            {"t": "Point", "x": 0.5, "y": 0.5},
            {"t": "Remove", "id": 2},
        ),
        welcome="Board",
        proof={"t": "Add", "text": "milk"},
        answer="Note",
    ),
    "editor": Program(
        EXAMPLES / "editor/editor.py",
        ({"t": "Edit", "version": 0, "at": 0, "cut": 0, "put": "x"}, {"t": "Line", "line": 1}),
        welcome="Text",
        proof={"t": "Line", "line": 2},
        answer="People",
    ),
    "game": Program(TEMPLATES / "game/game.py", ({"move": "left"},), welcome="you", proof={"move": "up"}, answer="state"),
}


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"a browser cannot read {constant}")


@contextmanager
def running(*command: str | Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with pipes, and kill it after the deadline, so that no read waits forever."""
    with subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environ}
    ) as program:
        timer = threading.Timer(DEADLINE, program.kill)
        timer.start()
        try:
            yield program
        finally:
            timer.cancel()
            program.kill()


def write_aside(program: subprocess.Popen[bytes], *chunks: bytes) -> None:
    """Write to a program in a thread, while the test reads from it."""

    def write() -> None:
        assert program.stdin is not None
        try:
            for chunk in chunks:
                program.stdin.write(chunk)
            program.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which the reader sees

    threading.Thread(target=write).start()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_ignores_rubbish_and_serves_the_next_client(name: str) -> None:
    program = PROGRAMS[name]
    joins = [json.dumps({"t": "Join", "_event": "join", "_from": client, "name": "Ann"}).encode() for client in (1, 9)]
    proof = json.dumps({**program.proof, "_from": 9}).encode()
    printed: list[dict[str, Any]] = []

    with running(program.path) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        write_aside(process, b"\n".join([joins[0], *program.rubbish(), joins[1], proof]) + b"\n")
        is_welcome = False
        while not (is_welcome and printed[-1]["t"] == program.answer):
            line = process.stdout.readline()
            assert line, f"it ended with {process.wait()} after {printed[-1:]}"
            printed.append(json.loads(line, parse_constant=refuse))
            is_welcome |= printed[-1]["t"] == program.welcome and printed[-1]["_to"] == 9
        process.stdin.close()
        process.stdout.read()

        assert process.wait(DEADLINE) == 0
    assert "\\ud800" not in json.dumps(printed[-1])


def test_the_line_program_of_a_template_answers_rubbish() -> None:
    rubbish = [b"\xff\xfe", b"\x00\x1b[2J", b"x" * 500_000, *LINES]

    with running(TEMPLATES / "minimal/hello.py", ROOM="lobby") as program:
        printed, _ = program.communicate(b"\n".join([*rubbish, b"good morning"]) + b"\n", DEADLINE)

    assert program.returncode == 0
    assert printed.splitlines()[-1] == f"{len(rubbish) + 1}: you said 'good morning'".encode()


RUBBISH_LINES: Final = (
    b"\xff\xfe",
    b"0d0",
    b"99d999",
    b"9d0",
    "٣d٣".encode(),
    b"hero",
    b"take",
    b"say \x1b[2J",
    b"x" * 70_000,
    *LINES,
)


def test_the_tcp_program_of_a_template_answers_rubbish() -> None:
    port = free_port()
    with running(TEMPLATES / "tcp/dice.py", PORT=str(port)) as program:
        connection = None
        while connection is None:
            assert program.poll() is None
            try:
                connection = create_connection(("127.0.0.1", port), DEADLINE)
            except ConnectionRefusedError:
                continue

        with connection, connection.makefile("rb") as answers:
            connection.sendall(b"\n".join([*RUBBISH_LINES, b"0d6"]) + b"\n")
            answered = [answers.readline() for _ in range(len(RUBBISH_LINES) + 1)]

        assert answered[-1] == b"0d6: 0 = 0\n"


def test_the_text_adventure_ignores_rubbish_and_removes_control_characters() -> None:
    with (
        run_until_listening(sys.executable, str(EXAMPLES / "mud/mud.py"), "127.0.0.1:0") as address,
        ExitStack() as stack,
    ):
        host, _, port = address.rpartition(":")
        ann, bob = (stack.enter_context(create_connection((host, int(port)), DEADLINE)) for _ in range(2))
        from_ann, from_bob = (stack.enter_context(each.makefile("rb")) for each in (ann, bob))
        bob.sendall(b"hero bob\n")
        while not from_bob.readline().startswith(b"Ways"):
            pass

        ann.sendall(b"\n".join([*RUBBISH_LINES, b"who"]) + b"\n")
        ann.sendall(b"say done\n")

        received = [b""]
        while not received[-1].startswith(b"Heroes: "):
            received.append(from_ann.readline())
            assert received[-1], "the connection has ended"
        while not received[-1].endswith(b'says: "done"\n'):
            received.append(from_bob.readline())
            assert received[-1], "the connection has ended"
    assert b"\x1b" not in b"".join(received)


def test_the_dice_over_gwsocket_ignore_rubbish() -> None:
    header = "<3I"
    frames = b"".join(struct.pack(header, 5, kind, len(line)) + line for line in RUBBISH_LINES for kind in (1, 2))

    with running(EXAMPLES / "gwsocket/dice.py") as program:
        printed, _ = program.communicate(frames + struct.pack(header, 7, 1, 3) + b"0d6" + b"\x01\x00", DEADLINE)

    assert program.returncode == 0
    assert printed.endswith(b"player 7 rolls 0d6: 0 = 0")


def test_the_terminal_applies_a_size_and_ignores_rubbish() -> None:
    header = struct.Struct("<3I")
    sizes = [json.dumps({"resize": value}).encode() for value in (*VALUES, [0, 0], [80, 1e9], [80, 10**9], ["a", 2], [-1, -1])]
    texts = [*LINES, *sizes, b'{"resize":[100,30]}']
    frames = b"".join(header.pack(5, 1, len(text)) + text for text in texts)
    keys = b"stty size; exit\n"

    with running(EXAMPLES / "terminal/terminal.py", "sh") as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(frames + header.pack(5, 2, len(keys)) + keys)
        program.stdin.flush()  # not closed: the end of input ends the terminal
        printed = program.stdout.read()

        assert program.wait(DEADLINE) == 0
    assert b'{"size": [100, 30]}' in printed
    assert b"30 100" in printed


# -- run by the server


@pytest.fixture(scope="module")
def sites(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses of the example site and of each template."""
    serve = (sys.executable, "-m", "scalesocket", "serve", "--bind", "127.0.0.1:0")
    with ExitStack() as stack:
        mud = stack.enter_context(run_until_listening(sys.executable, str(examples / "mud/mud.py"), "127.0.0.1:0"))
        addresses = {
            "site": stack.enter_context(run_until_listening(*serve, str(examples / "site.toml"), MUD_PORT=mud.rpartition(":")[2]))
        }
        for template in ("minimal", "chat", "game", "tcp"):
            folder = tmp_path_factory.mktemp(template)
            assert scalesocket("init", template, cwd=folder).code == 0
            addresses[template] = stack.enter_context(run_until_listening(*serve, str(folder / "site.toml")))
        yield addresses


@pytest.mark.parametrize(
    ("site", "app", "valid", "answer"),
    [
        ("site", "chat", '{"t":"Say","text":"hello"}', '"text":"hello"'),
        ("site", "arena", '{"t":"Dash"}', '"t":"State"'),
        ("site", "mud", "say hello", 'You say: "hello"'),
        ("site", "whiteboard", '{"t":"Add","text":"hello"}', '"text": "hello"'),
        ("site", "editor", '{"t":"Line","line":2}', '"line": 2'),
        ("minimal", "hello", "good morning", "you said 'good morning'"),
        ("chat", "chat", '{"t":"Say","text":"hello"}', '"text":"hello"'),
        ("game", "game", '{"move":"up"}', '"t": "state"'),
        ("tcp", "dice", "0d6", "0d6: 0 = 0"),
    ],
)
def test_a_room_outlives_a_client_that_sends_rubbish(sites: dict[str, str], site: str, app: str, valid: str, answer: str) -> None:
    url = f"ws://{sites[site]}/{app}/attacked"
    rubbish = [
        '{"move":[]}',
        '{"t":[]}',
        '{"t":"Steer","x":1e308,"y":' + "9" * 400 + "}",
        '{"t":"Change","id":{}}',
        '{"t":"Edit","version":0,"at":-1,"cut":[],"put":null}',
        '{"t":"Leave","_event":"leave"}',
        '{"a":' * 900 + "1" + "}" * 900,
        "null",
        "[]",
        "x" * 65_536,
    ]
    with connect(url, max_size=None, max_queue=None) as bystander, connect(url) as attacker:
        for message in rubbish:
            attacker.send(message)
        attacker.send(valid)
        while answer not in str(attacker.recv(timeout=DEADLINE)):
            pass
        assert bystander.ping().wait(DEADLINE)

        bystander.send(valid)
        while answer not in str(bystander.recv(timeout=DEADLINE)):
            pass
        with connect(f"{url}?name=7") as new_client:
            new_client.send(valid)
            while answer not in str(new_client.recv(timeout=DEADLINE)):
                pass
