"""Loads at growing sizes, as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.loads import Load, Options, broadcast, echo

WINDOW_SWEEP: Final[Options] = {"seconds": 0.6, "warm": 0.2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One load at growing sizes, for a plot of cost by size."""

    name: str
    title: str
    axis: str
    points: Mapping[int, Options]

    def make_loads(self) -> dict[int, Load]:
        """The loads of all points."""
        return {
            x: Load(
                name=f"{self.name}-{x}",
                title=f"{self.title}, {x:,} {self.axis}",
                options={**WINDOW_SWEEP, **options},
                rounds=1,
                is_quick=False,
                is_swept=True,
            )
            for x, options in self.points.items()
        }


SWEEPS: Final = (
    Sweep(
        name="by-clients",
        title="broadcast, 1 in flight",
        axis="clients",
        points={n: broadcast(n, 1) for n in (1, 10, 50, 200, 500, 1000, 2000)},
    ),
    Sweep(name="by-rooms", title="echo, 8 in flight", axis="rooms", points={n: echo(n, 8) for n in (1, 10, 50, 200, 500, 1000)}),
    Sweep(
        name="by-size",
        title="broadcast to 100, 1 in flight",
        axis="bytes",
        points={n: broadcast(100, 1, n) for n in (32, 100, 1000, 4000, 16000, 64000)},
    ),
)
