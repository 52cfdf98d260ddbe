"""A target: prints its port or path, then serves all connections. `listen.py [unix:PATH] [OPTION]`.

Echoes its input, and sends "bye" at the end of it. `deaf`: never reads; `reset`: resets the connection after the first line;
`hangup`: closes it.
"""

import socket
import struct
import sys
import threading

options = set(sys.argv[1:])
path = next((word.removeprefix("unix:") for word in options if word.startswith("unix:")), None)
if path:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print(path, flush=True)
else:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)


def serve(connection: socket.socket) -> None:
    with connection:
        connection.sendall(b"hello\n")
        if "deaf" in options:
            threading.Event().wait()
        while chunk := connection.recv(65536):
            if "reset" in options:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            connection.sendall(chunk)
            if "hangup" in options:
                return
        connection.sendall(b"bye\n")


while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
