"""The program of a worker process: `python __main__.py INDEX`. Its standard input has the rest (setup.py)."""

import gc
import sys

sys.path.append(__file__.rsplit("/", 3)[0])  # the package's folder, which `-P` leaves out

gc.disable()  # collections during the imports, which leave no garbage, would take a tenth of the start
from scalesocket.workers.worker import main  # noqa: E402

gc.enable()

if __name__ == "__main__":
    sys.exit(main())
