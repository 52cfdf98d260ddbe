"""Roll dice for whoever asks, over TCP: `2d6` gives the sum of two dice with six sides."""

import os
import random
import re
import socket


def roll(asked: str) -> str:
    """Roll the dice that were asked for, or tell how to ask for some."""
    dice = re.fullmatch(r"(\d{1,2})d(\d{1,3})", asked)
    if dice is None or int(dice[2]) == 0:
        return "ask for dice like this: 2d6"
    rolls = [random.randint(1, int(dice[2])) for _ in range(int(dice[1]))]
    return f"{asked}: {' + '.join(map(str, rolls)) or 0} = {sum(rolls)}"


listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
connection, _ = listener.accept()
with connection, connection.makefile("rb") as lines:
    for line in lines:
        connection.sendall(f"{roll(line.decode(errors='replace').strip())}\n".encode())
