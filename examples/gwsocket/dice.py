"""Dice over gwsocket frames: rolls are broadcast, and comments are sent to the player who rolled.

In both directions a message is a 12-byte header and a payload. The header is three little-endian 32-bit numbers: the client's
id (the sender of input, the receiver of output, 0 for everyone), the type (1 text, 2 binary) and the length of the payload.
Because of the length, a message may contain any bytes, line breaks and zero bytes included.

    $ websocat ws://127.0.0.1:9000/dice/table
    2d6
"""

import random
import re
import struct
import sys

HEADER = struct.Struct("<3I")
TEXT = 1


def read_messages(stream):
    while len(header := stream.read(HEADER.size)) == HEADER.size:
        client, kind, length = HEADER.unpack(header)
        yield client, kind, stream.read(length)


def send(stream, client, text):
    payload = text.encode()
    stream.write(HEADER.pack(client, TEXT, len(payload)) + payload)
    stream.flush()


def main():
    for client, kind, payload in read_messages(sys.stdin.buffer):
        order = re.fullmatch(r"(\d{1,2})d(\d{1,3})", payload.decode(errors="replace").strip()) if kind == TEXT else None
        if order is None or not int(order[2]):
            send(sys.stdout.buffer, client, "roll like this: 2d6")
            continue
        count, sides = map(int, order.groups())
        rolled = [random.randint(1, sides) for _ in range(count)]
        send(sys.stdout.buffer, 0, f"player {client} rolls {order[0]}: {' + '.join(map(str, rolled)) or 0} = {sum(rolled)}")
        if count and sum(rolled) == count * sides:
            send(sys.stdout.buffer, client, "the best roll there is!")


if __name__ == "__main__":
    main()
