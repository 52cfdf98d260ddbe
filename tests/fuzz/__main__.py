"""Long runs of the fuzz targets: `make fuzz FUZZ=frames FUZZ_SECONDS=600`, or `python -m tests.fuzz TARGET --seconds N`.

With atheris, coverage guides the run, and inputs that reach new code are kept in .fuzz/TARGET for the next one. Without it,
hypothesis edits the corpus. `--replay FILE` runs a target on one input.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
KEPT: Final = ROOT / ".fuzz"
ALL: Final = "all"
MAX_SIZE: Final = 4096
"""Bytes of an input."""
MAX_MEMORY: Final = 1024
"""MiB of the whole process."""
EXAMPLES: Final = 1_000
"""Inputs between two looks at the clock, without atheris."""

try:
    import atheris
except ImportError:
    atheris = None


def main() -> int:
    """Run one target, or each of them in a process of its own. Returns the exit status: 0 if nothing was found."""
    if atheris is not None:
        with atheris.instrument_imports(include=["scalesocket"]):
            from tests.fuzz.targets import TARGETS
    else:
        from tests.fuzz.targets import TARGETS
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Run fuzz targets.")
    parser.add_argument("target", choices=[*TARGETS, ALL])
    parser.add_argument("--seconds", type=int, default=60, help="how long each target runs (default: 60)")
    parser.add_argument("--replay", type=Path, help="run the target on this input alone")
    arguments = parser.parse_args()
    if arguments.target == ALL:
        return max(run_alone(target, arguments.seconds) for target in TARGETS)
    if arguments.replay is not None:
        TARGETS[arguments.target](arguments.replay.read_bytes())
    elif atheris is not None:
        fuzz(arguments.target, arguments.seconds)
    else:
        print("atheris is not installed, so hypothesis runs without coverage (to install it: .venv/bin/pip install atheris)")
        fuzz_without_coverage(arguments.target, arguments.seconds)
    return 0


def run_alone(target: str, seconds: int) -> int:
    """Run a target in a process of its own; return its exit status."""
    print(f"\n--- {target}", flush=True)
    return abs(subprocess.run([sys.executable, "-m", "tests.fuzz", target, "--seconds", str(seconds)], cwd=ROOT).returncode)


def fuzz(target: str, seconds: int) -> None:
    """Run a target with atheris, which ends the process."""
    from tests.fuzz.targets import CORPUS, TARGETS

    kept = KEPT / target
    kept.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_SIZE}",
        "-timeout=10",
        f"-rss_limit_mb={MAX_MEMORY}",
        f"-artifact_prefix={kept}/",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(kept), str(CORPUS / target)], TARGETS[target])
    atheris.Fuzz()


def fuzz_without_coverage(target: str, seconds: int) -> None:
    """Run a target with hypothesis."""
    from tests.fuzz.running import run_hypothesis

    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        run_hypothesis(target, EXAMPLES)
        count += EXAMPLES
    print(f"{target}: {count} inputs, nothing found")


if __name__ == "__main__":
    sys.exit(main())
