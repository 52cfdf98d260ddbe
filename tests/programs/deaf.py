"""Never reads its input; prints "deaf" first."""

import signal

print("deaf", flush=True)
while True:
    signal.pause()
