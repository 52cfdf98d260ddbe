"""Prints a line and ends: `crash.py 3` with this exit status, `crash.py SIGSEGV` by this signal."""

import os
import signal
import sys

print("so far so good", flush=True)
end = sys.argv[1] if len(sys.argv) > 1 else "1"
if end.isdecimal():
    sys.exit(int(end))
os.kill(os.getpid(), signal.Signals[end])
