"""Writes its input into a file: `notes.py FILE`."""

import sys

with open(sys.argv[1], "a") as notes:  # noqa: PTH123
    for line in sys.stdin:
        notes.write(line)
        notes.flush()
