"""Dice over gwsocket frames: every roll is told to the room, and its luck to the one who rolled alone.

Both ways a message is a 12-byte header, three little-endian 32-bit numbers, and then its bytes: the client's id (to a
program: who sent it; from a program: who gets it, 0 for everyone), its type (1 text, 2 binary) and its length. Lengths
instead of lines: a message may hold anything, line breaks and zero bytes too.

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
