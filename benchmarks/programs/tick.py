"""A backend that prints lines at a fixed rate: `python tick.py HZ BYTES`.

Each line is a stamp of the load generator (12 hex digits: number, then sender 0) and the monotonic clock in nanoseconds.
"""

import sys
import time


def main() -> None:
    period, size = 1e9 / float(sys.argv[1]), int(sys.argv[2])
    start, number = time.monotonic_ns(), 0
    while True:
        line = f"{number:08x}0000 {time.monotonic_ns()} "
        sys.stdout.write(line.ljust(size, "x") + "\n")
        sys.stdout.flush()
        number += 1
        time.sleep(max(0.0, (start + number * period - time.monotonic_ns()) / 1e9))


if __name__ == "__main__":
    main()
