"""Counts its runs in a file and fails as often as requested: `lives.py FILE DEATHS [STATUS]`.

Prints "life N", echoes, and exits with STATUS (default 1) at the line "die"; if DEATHS is negative, its first -DEATHS runs
exit at once.
"""

import sys
from pathlib import Path

path, deaths = Path(sys.argv[1]), int(sys.argv[2])
status = int(sys.argv[3]) if len(sys.argv) > 3 else 1
life = int(path.read_text()) + 1 if path.exists() else 1
path.write_text(str(life))
print(f"life {life}", flush=True)
if life <= -deaths:
    sys.exit(status)
for line in sys.stdin:
    if line == "die\n":
        sys.exit(status)
    print(line, end="", flush=True)
