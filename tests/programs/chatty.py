"""Writes COUNT lines to standard error and one without a line end, and exits: `chatty.py COUNT [WIDTH]`."""

import sys

count, width = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
for number in range(count):
    print(f"{number:0{width}}", file=sys.stderr)
print("no end", end="", file=sys.stderr, flush=True)
