"""Prints numbered lines as fast as it can: `flood.py COUNT [WIDTH]`."""

import sys

count, width = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
for first in range(0, count, 1000):
    sys.stdout.write("".join(f"{number:0{width}}\n" for number in range(first, min(first + 1000, count))))
