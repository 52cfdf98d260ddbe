"""Runs a fuzz target on one input within bounds of time, and on many that hypothesis makes of its corpus."""

import time
from collections.abc import Callable
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, seeds_of

MAX_SECONDS: Final = 2.0
"""CPU time that one input may take. The largest inputs take a tenth of it."""


def run_bounded(target: str, data: bytes) -> None:
    """Run a target on one input; fail if it takes too long."""
    began = time.thread_time()
    TARGETS[target](data)
    took = time.thread_time() - began
    assert took < MAX_SECONDS, f"an input of {len(data)} bytes took {took:.1f} s"


@st.composite
def edited(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """An input of the corpus with some edits: bytes are removed, and others or a part of another input are inserted."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        removed = draw(st.sampled_from((0, 1, 1, 2, 5, 40)))
        other = draw(st.sampled_from(seeds))
        start = draw(st.integers(0, len(other)))
        part = other[start : start + draw(st.integers(0, 30))]
        inserted = draw(st.one_of(st.binary(max_size=4), st.just(part)))
        data = data[:at] + inserted + data[at + removed :]
    return data


def run_hypothesis(target: str, examples: int, *, is_same: bool = False) -> None:
    """Run a target on so many inputs. Raises what the target raises, with the smallest input that shows it.

    `is_same`: the same inputs each time, so that a change of something else never finds a fault of this target.
    """
    seeds = list(seeds_of(target).values())

    @settings(max_examples=examples, deadline=None, derandomize=is_same, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(edited(seeds), edited(seeds), st.binary(max_size=200)))
    def check(data: bytes) -> None:
        run_bounded(target, data)

    run: Callable[[], None] = check
    run()
