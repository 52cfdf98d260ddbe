"""Roll dice for whoever asks, over TCP: `2d6` gives the sum of two dice with six sides."""

import os
import random
import re
import socket

listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
connection, _ = listener.accept()
with connection, connection.makefile("rw") as lines:
    for line in lines:
        asked = re.fullmatch(r"(\d{1,2})d(\d{1,3})", line.strip())
        if asked is None or int(asked[2]) == 0:
            lines.write("ask for dice like this: 2d6\n")
        else:
            rolls = [random.randint(1, int(asked[2])) for _ in range(int(asked[1]))]
            lines.write(f"{line.strip()}: {' + '.join(map(str, rolls)) or 0} = {sum(rolls)}\n")
        lines.flush()
