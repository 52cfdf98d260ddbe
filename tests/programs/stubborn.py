"""Ignores the end of its input, SIGTERM and SIGINT, and prints a line at each."""

import signal
import sys

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: print(signal.Signals(number).name, flush=True))
print("stubborn", flush=True)
for line in sys.stdin:
    print(line, end="", flush=True)
print("no more input", flush=True)
while True:
    signal.pause()
