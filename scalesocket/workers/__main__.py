"""The program of a worker process: `python __main__.py INDEX`. Its standard input has the rest (setup.py)."""

import sys

sys.path.append(__file__.rsplit("/", 3)[0])  # the package's folder, which `-P` leaves out

from scalesocket.workers.worker import main

if __name__ == "__main__":
    sys.exit(main())
