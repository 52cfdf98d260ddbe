"""Answer every line. Each room is one process of this program, and everyone in the room receives what it prints."""

import os
import sys

print(f"welcome to {os.environ['ROOM']}", flush=True)
for count, line in enumerate(sys.stdin.buffer, start=1):
    print(f"{count}: you said {line.decode(errors='replace').strip()!r}", flush=True)
