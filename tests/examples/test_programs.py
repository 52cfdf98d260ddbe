"""The programs of the examples, as the server runs them: lines in, lines out."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

EXAMPLES: Final = Path(__file__).parents[2] / "examples"


def answers(program: str, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a program prints for these messages, until its input ends."""
    sent = "".join(json.dumps(message) + "\n" for message in messages)
    ran = subprocess.run([sys.executable, EXAMPLES / program], input=sent, capture_output=True, text=True, timeout=20, check=True)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def join(client: int, name: str) -> dict[str, Any]:
    return {"t": "Join", "_from": client, "_event": "join", "name": name}


def test_the_editor_applies_an_edit_of_the_current_text_and_ignores_an_older_one() -> None:
    first = {"t": "Edit", "_from": 1, "version": 0, "at": 0, "cut": 1, "put": "##"}
    late = {"t": "Edit", "_from": 2, "version": 0, "at": 0, "cut": 0, "put": "lost"}
    again = {"t": "Edit", "_from": 2, "version": 1, "at": 0, "cut": 0, "put": "> "}

    printed = answers("editor/editor.py", join(1, "Ann"), join(2, "Bob"), first, late, again, join(3, "Carl"))

    assert [message["by"] for message in printed if message["t"] == "Edit"] == [1, 2]
    text = printed[-2]
    assert (text["_to"], text["version"]) == (3, 2)
    assert text["text"].startswith("> ## Write together\n")


@pytest.mark.parametrize("program", ["editor/editor.py", "whiteboard/whiteboard.py"])
def test_a_forged_leave_message_is_ignored(program: str) -> None:
    forged = [{"t": "Leave", "_from": 1}, {"t": "Join", "_from": 1, "name": "Eve"}]

    printed = answers(program, join(1, "Ann"), *forged, join(2, "Bob"))

    names = [list(message["people"].values()) for message in printed if message["t"] == "People"]
    assert [[person.get("name") if isinstance(person, dict) else person for person in each] for each in names] == [
        ["Ann"],
        ["Ann", "Bob"],
    ]


def test_the_editor_sends_the_text_to_a_page_with_an_invalid_edit() -> None:
    wrong = {"t": "Edit", "_from": 1, "version": 0, "at": 999_999, "cut": 0, "put": "x"}

    printed = answers("editor/editor.py", join(1, "Ann"), wrong)

    assert (printed[-1]["t"], printed[-1]["_to"], printed[-1]["version"]) == ("Text", 1, 0)


def test_the_whiteboard_sends_a_change_to_everyone_except_its_author() -> None:
    add = {"t": "Add", "_from": 1, "x": 0.5, "y": 2}
    change = {"t": "Change", "_from": 1, "id": 1, "text": "milk"}

    printed = answers("whiteboard/whiteboard.py", join(1, "Ann"), add, change, join(2, "Bob%20B."))

    added, changed, board, people = printed[-4:]
    assert (added["note"]["x"], added["note"]["y"]) == (0.5, 1.0)
    assert (changed["note"]["text"], changed["_except"]) == ("milk", 1)
    assert (board["_to"], [note["text"] for note in board["notes"]]) == (2, ["milk"])
    assert people["people"] == {"1": "Ann", "2": "Bob B."}


def test_the_arena_moves_a_player_in_the_direction_it_steers() -> None:
    game = subprocess.Popen(
        [sys.executable, EXAMPLES / "arena/arena.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with game:
        assert game.stdin is not None
        assert game.stdout is not None
        for message in (join(7, "Ann"), {"t": "Leave", "_from": 7}, {"t": "Steer", "_from": 7, "x": 1, "y": 0}):
            game.stdin.write(json.dumps(message) + "\n")
        game.stdin.flush()

        welcome, names = (json.loads(game.stdout.readline()) for _ in range(2))
        states = [json.loads(game.stdout.readline()) for _ in range(40)]
        game.stdin.close()

    assert (welcome["_to"], names["names"]) == (7, {"7": "Ann"})
    start, *places = (state["players"][0][1] for state in states)
    assert max(places) >= min(start + 100, 1600 - 26)  # to the right, as far as the wall
    assert game.returncode == 0


def test_the_dice_broadcast_a_roll_and_send_an_error_to_its_author() -> None:
    header = struct.Struct("<3I")
    sent = b"".join(header.pack(5, 1, len(text)) + text for text in (b"3d6", b"hello\nthere"))

    ran = subprocess.run(
        [sys.executable, EXAMPLES / "gwsocket/dice.py"], input=sent, capture_output=True, timeout=20, check=True
    ).stdout

    received = []
    while ran:
        client, kind, length = header.unpack(ran[:12])
        received.append((client, kind, ran[12 : 12 + length]))
        ran = ran[12 + length :]
    assert received[0][:2] == (0, 1)
    assert received[0][2].startswith(b"player 5 rolls 3d6: ")
    assert received[-1] == (5, 1, b"roll like this: 2d6")
