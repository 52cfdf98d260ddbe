"""The benchmark: this server and its peers, side by side in one run, under the same loads. `python -m benchmarks --help`."""
