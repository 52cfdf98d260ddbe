"""Starts a process in the background, prints its pid, and ends: `grandchild.py SECONDS hold|quiet`.

`hold`: the other one keeps standard output open, and says "bye" after SECONDS. `quiet`: it has closed everything.
"""

import os
import sys
import time

seconds, how = float(sys.argv[1]), sys.argv[2]
pid = os.fork()
if pid == 0:
    if how == "quiet":
        for fd in range(3):
            os.close(fd)
        time.sleep(seconds)
    else:
        time.sleep(seconds)
        print("bye", flush=True)
else:
    print(pid, flush=True)
