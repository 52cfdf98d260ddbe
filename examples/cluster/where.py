"""Says on which node it runs, when a client joins; sends everything else to all clients of the room."""

import os
import sys

FENCE = os.environ.get("SCALESOCKET_FENCE", "none")

clients = 0
for line in sys.stdin:
    word = line.partition(" ")[0].strip()
    if word in ("join", "leave"):
        clients += 1 if word == "join" else -1
        line = f"room {os.environ['ROOM']} on node {os.environ['NODE']}, fence {FENCE}, clients {clients}\n"
    print(line, end="", flush=True)
