"""A short run of each fuzz target: its corpus, inputs that hypothesis makes of it, and large inputs. `make fuzz` runs longer."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from tests.fuzz.running import run_bounded, run_hypothesis
from tests.fuzz.targets import CORPUS, TARGETS, seeds_of

ROOT = Path(__file__).parents[2]
EXAMPLES = 150
LARGE = 32 * 1024
"""Bytes of a large input: as many as a request head may have."""
MAX_MEMORY = 24 * 1024 * 1024
"""Bytes that a large input may allocate at once."""


def test_each_target_has_a_corpus() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == TARGETS.keys()
    assert all(seeds_of(target) for target in TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_read(target: str) -> None:
    for data in seeds_of(target).values():
        run_bounded(target, data)


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_like_the_corpus_are_read(target: str) -> None:
    run_hypothesis(target, EXAMPLES, is_same=True)


@pytest.mark.parametrize("target", TARGETS)
def test_large_inputs_take_bounded_time_and_memory(target: str) -> None:
    for data in seeds_of(target).values():
        # Its parts after the choices, and its characters, many times.
        start, rest = data[:5], data[5:] or b"x"
        for unit in {rest, rest[:1], rest[-3:], *(rest[at : at + 4] for at in range(0, len(rest), 1 + len(rest) // 6))}:
            run_bounded(target, start + unit * (LARGE // len(unit)))
        tracemalloc.start()
        try:
            run_bounded(target, start + rest * (LARGE // len(rest)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < MAX_MEMORY, f"{peak} bytes"


def test_a_long_run_ends_in_time_and_a_single_input_is_replayed() -> None:
    run = [sys.executable, "-m", "tests.fuzz", "proxy"]

    assert subprocess.run([*run, "--seconds", "1"], cwd=ROOT, timeout=60).returncode == 0
    assert subprocess.run([*run, "--replay", CORPUS / "proxy" / "tcp4"], cwd=ROOT, timeout=60).returncode == 0


def test_a_target_that_raises_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(data: bytes) -> None:
        if data[:1] == b"P":
            raise KeyError(data)

    monkeypatch.setitem(TARGETS, "proxy", raises)  # type: ignore[arg-type]

    with pytest.raises(KeyError):
        run_hypothesis("proxy", EXAMPLES, is_same=True)
