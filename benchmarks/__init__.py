"""The benchmark: this server and other servers under the same loads, side by side in one run. `python -m benchmarks --help`."""
