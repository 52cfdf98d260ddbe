"""The rules of the game. Reads the messages of the players, one JSON object per line, and prints the state for all of them.

Clients may send anything, so unknown messages are ignored: an exception would end the match for everyone.
"""

import json
import random
import sys
from typing import Any
from urllib.parse import unquote

SIZE = 20
MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
players: dict[int, dict[str, Any]] = {}
coin = {"x": 10, "y": 10}


def send(**message: object) -> None:
    """Send a message to everyone, or to the player `_to`."""
    print(json.dumps(message), flush=True)


def read(line: bytes) -> dict[str, object] | None:
    """Parse a line; return None if it is not a JSON object with a sender."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and isinstance(message.get("_from"), int) else None


def name_of(message: dict[str, object]) -> str:
    """Return the player's name. It is URL-encoded; without a name, the placeholder itself is in the join message."""
    name = message.get("name")
    name = unquote(name) if isinstance(name, str) and not name.startswith("#") else ""
    return "".join(filter(str.isprintable, name)).strip()[:24] or f"player {message['_from']}"


for line in sys.stdin.buffer:
    message = read(line) or {}
    match message:
        case {"_event": "join", "_from": int(who)}:  # only the server can set _event and _from
            players[who] = {"x": random.randrange(SIZE), "y": random.randrange(SIZE), "score": 0, "name": name_of(message)}
            send(t="you", id=who, size=SIZE, _to=who)
        case {"_event": "leave", "_from": int(who)}:
            players.pop(who, None)
        case {"move": str(move), "_from": int(who)} if move in MOVES and who in players:
            x, y = MOVES[move]
            player = players[who]
            player["x"], player["y"] = (player["x"] + x) % SIZE, (player["y"] + y) % SIZE
            if (player["x"], player["y"]) == (coin["x"], coin["y"]):
                player["score"] += 1
                coin.update(x=random.randrange(SIZE), y=random.randrange(SIZE))
        case _:
            continue
    send(t="state", players=players, coin=coin)
