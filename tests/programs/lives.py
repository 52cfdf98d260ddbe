"""Counts its lives in a file and is killed as often as told: `lives.py FILE DEATHS [STATUS]`.

Says "life N", echoes, and ends with STATUS (default 1) at the line "die" or, without being told, in the lives that are
still to be lost when DEATHS is negative.
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
