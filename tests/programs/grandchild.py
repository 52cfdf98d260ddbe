"""Starts a process in the background, prints its pid, and exits: `grandchild.py SECONDS hold|quiet`.

`hold`: the process keeps standard output open, and prints "bye" after SECONDS. `quiet`: it closes its standard streams.
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
