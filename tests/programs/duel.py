"""A game over JSON: the higher number wins a round, and a client that sends "quit" is closed."""

import json
import sys

players: dict[int, int | None] = {}


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


for line in sys.stdin:
    message = json.loads(line)
    player = message["_from"]
    match message:
        case {"_event": "join"}:
            players[player] = None
            # The welcome comes last: who joins after it was received gets no "joined" of this player.
            say(_meta=True, players=len(players))
            say(t="joined", _except=player, player=player)
            say(t="welcome", _to=player, players=sorted(players))
        case {"_event": "leave"}:
            players.pop(player, None)
            say(_meta=True, players=len(players))
        case {"quit": True}:
            say(_to=player, _close=4000, reason="good game")
        case {"number": int(number)}:
            players[player] = number
            if None not in players.values():
                best = max(players, key=lambda each: players[each] or 0)
                say(t="won", player=best)
                players = dict.fromkeys(players)
