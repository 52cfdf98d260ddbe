"""Dots and a coin. Reads what the players send, one JSON object a line; prints what they are to see."""

import json
import random
import sys

SIZE = 20
players: dict[int, dict[str, int]] = {}
coin = {"x": 10, "y": 10}
MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def say(**message: object) -> None:
    """Send a message to everyone, or with `_to` to some."""
    print(json.dumps(message), flush=True)


for line in sys.stdin:
    message = json.loads(line)
    who = message["_from"]
    event = message.get("_event")  # only the server writes it: no client can pretend to join or to leave
    if event == "join":
        players[who] = {"x": random.randrange(SIZE), "y": random.randrange(SIZE), "score": 0}
        say(t="you", id=who, size=SIZE, _to=who)
    elif event == "leave":
        players.pop(who, None)
    elif message.get("move") in MOVES and who in players:
        x, y = MOVES[message["move"]]
        player = players[who]
        player["x"], player["y"] = (player["x"] + x) % SIZE, (player["y"] + y) % SIZE
        if (player["x"], player["y"]) == (coin["x"], coin["y"]):
            player["score"] += 1
            coin.update(x=random.randrange(SIZE), y=random.randrange(SIZE))
    say(t="state", players=players, coin=coin)
