"""Listens on 127.0.0.1:$PORT, accepts one connection and echoes: `tcp.py [OPTION…]`.

`slow`: listens half a second late; `loud`: fills its standard output first; `never`: does not listen; `hangup`: closes the
connection after the first line and runs on; `exit`: exits with status 4 instead.
"""

import os
import socket
import sys
import time

options = set(sys.argv[1:])
if "loud" in options:
    sys.stdout.write("loud\n" * 100_000)
print("before listening", flush=True)
if "never" in options:
    time.sleep(60)
if "slow" in options:
    time.sleep(0.5)
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=1)
connection, _ = listener.accept()
listener.close()
connection.sendall(b"hello\n")
while chunk := connection.recv(65536):
    connection.sendall(chunk)
    if "exit" in options:
        sys.exit(4)
    if "hangup" in options:
        connection.close()
        time.sleep(60)
connection.sendall(b"bye\n")
