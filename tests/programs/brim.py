"""Prints numbered lines until its output blocks, writes their number into a file, and exits: `brim.py FILE`."""

import os
import select
import sys
from pathlib import Path

os.set_blocking(1, False)
count = 0
while select.select([], [1], [], 0.1)[1]:
    try:
        os.write(1, b"%01000d\n" % count)  # a line is written as a whole or not at all (PIPE_BUF)
    except BlockingIOError:
        continue
    count += 1
Path(sys.argv[1]).write_text(str(count))
