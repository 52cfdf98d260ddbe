"""Roll dice over TCP: `2d6` returns the sum of two dice with six sides."""

import os
import random
import re
import socket


def roll(request: str) -> str:
    """Roll the dice of a request, or explain the syntax."""
    dice = re.fullmatch(r"(\d{1,2})d(\d{1,3})", request)
    if dice is None or int(dice[2]) == 0:
        return "type a number of dice and of sides, for example 2d6"
    rolls = [random.randint(1, int(dice[2])) for _ in range(int(dice[1]))]
    return f"{request}: {' + '.join(map(str, rolls)) or 0} = {sum(rolls)}"


listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
connection, _ = listener.accept()
with connection, connection.makefile("rb") as lines:
    for line in lines:
        connection.sendall(f"{roll(line.decode(errors='replace').strip())}\n".encode())
