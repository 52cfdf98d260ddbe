"""Prints numbered lines as fast as it can once it has read a line: `alarm.py COUNT WIDTH`."""

import sys

count, width = map(int, sys.argv[1:])
sys.stdin.readline()
for first in range(0, count, 1000):
    sys.stdout.write("".join(f"{number:0{width}}\n" for number in range(first, min(first + 1000, count))))
    sys.stdout.flush()
sys.stdin.read()
