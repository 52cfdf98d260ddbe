"""Exits after starting a child that goes on writing records to the same output, 37 bytes at a time: `heirs.py text|gwsocket`."""

import os
import struct
import sys
import time

RECORDS = {"text": b"0123456789" * 10 + b"\n", "gwsocket": struct.pack("<III", 0, 1, 100) + b"0123456789" * 10}

if os.fork():
    time.sleep(0.1)
    os._exit(1)
records = RECORDS[sys.argv[1]] * 1000
at = 0
while True:
    os.write(1, (records + records[:37])[at : at + 37])
    at = (at + 37) % len(records)
    time.sleep(0.0001)
