"""The targets: for each figure what is required (`must`) and what is the goal (`aim`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from benchmarks.measure import Result
from benchmarks.metrics import METRICS, Metric, find_median
from benchmarks.peers import is_ours


class Verdict(Enum):
    """The result of comparing a figure with its target."""

    MET = "met"
    MUST_ONLY = "must only"
    MISSED = "missed"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A target for one figure of one load: a ratio to another server's figure in the same run, or an absolute value."""

    load: str
    metric: Metric
    must: float
    aim: float
    against: str | None = "rust"
    """The server by whose figure ours is divided; None for an absolute value."""
    peer: str = "ours"
    """Which of our servers is judged."""

    @property
    def is_more_better(self) -> bool:
        return METRICS[self.metric].is_more_better


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A target and its result."""

    target: Target
    ours: float | None
    theirs: float | None
    value: float | None
    """The ratio or our figure; None if it was not measured."""
    verdict: Verdict
    reason: str = ""
    """Why it was not judged."""


THROUGHPUT, CPU, P50 = Metric.THROUGHPUT, Metric.CPU, Metric.P50

TARGETS: Final = (
    Target(load="fan-100-16", metric=THROUGHPUT, must=1.5, aim=2.0),
    Target(load="fan-100-16", metric=CPU, must=0.6, aim=0.4),
    Target(load="fan-100-16-json", metric=THROUGHPUT, must=1.2, aim=1.6),
    Target(load="fan-100-16-json", metric=CPU, must=0.8, aim=0.5),
    Target(load="fan-100-1", metric=THROUGHPUT, must=1.1, aim=1.3),
    Target(load="fan-100-1", metric=CPU, must=0.9, aim=0.75),
    Target(load="fan-100-1-json", metric=THROUGHPUT, must=1.1, aim=1.3),
    Target(load="fan-100-1-json", metric=CPU, must=0.9, aim=0.75),
    Target(load="fan-1000-1", metric=THROUGHPUT, must=0.8, aim=1.1),
    Target(load="fan-1000-1", metric=CPU, must=0.95, aim=0.8),
    Target(load="echo-50", metric=THROUGHPUT, must=1.0, aim=1.3),
    Target(load="echo-50", metric=CPU, must=0.9, aim=0.75),
    Target(load="echo-50-json", metric=THROUGHPUT, must=1.0, aim=1.3),
    Target(load="echo-50-json", metric=CPU, must=0.9, aim=0.75),
    Target(load="echo-1", metric=P50, must=1.3, aim=1.0),
    Target(load="handshakes", metric=Metric.RATE, must=0.8, aim=1.2),
    Target(load="handshakes", metric=Metric.RATE, must=0.6, aim=0.75, peer="ours-jwt", against="ours"),
    Target(load="rooms", metric=Metric.RATE, must=1.2, aim=2.0),
    Target(load="rooms-1000x4", metric=THROUGHPUT, must=1.0, aim=1.3, peer="ours-2"),
    Target(load="rooms-1000x4", metric=CPU, must=1.1, aim=1.0, peer="ours-2", against="ours"),
    Target(load="fan-4x250", metric=THROUGHPUT, must=1.0, aim=1.3, peer="ours-2", against="ours"),
    Target(load="fan-4x250", metric=CPU, must=1.1, aim=1.0, peer="ours-2", against="ours"),
    Target(load="echo-50", metric=THROUGHPUT, must=1.0, aim=1.3, peer="ours-2", against="ours"),
    Target(load="echo-50", metric=CPU, must=1.1, aim=1.0, peer="ours-2", against="ours"),
    Target(load="handshakes", metric=Metric.RATE, must=0.9, aim=1.3, peer="ours-2", against="ours"),
    Target(load="handshakes-rooms", metric=Metric.RATE, must=0.9, aim=1.3, peer="ours-2", against="ours"),
    Target(load="rooms", metric=Metric.RATE, must=0.9, aim=1.0, peer="ours-2", against="ours"),
    Target(load="rooms-stalls", metric=Metric.STALL, must=5.0, aim=5.0, against=None),
    Target(load="idle-9000", metric=Metric.MEMORY, must=4.0, aim=2.0, against=None),
    Target(load="fan-100-16", metric=THROUGHPUT, must=20.0, aim=20.0, against="quart"),
    Target(load="reload", metric=Metric.BUMP, must=2.0, aim=2.0, against=None),
)


def judge(target: Target, results: Mapping[str, Result]) -> Judgement:
    """Compare one target with the results."""
    result = results.get(target.load)
    ours = find(result, target.peer, target.metric)
    theirs = find(result, target.against, target.metric) if target.against else None
    if ours is None or (target.against and not theirs):
        who = target.peer if ours is None else str(target.against)
        return Judgement(
            target=target, ours=ours, theirs=theirs, value=None, verdict=Verdict.NOT_JUDGED, reason=f"no figure of {who}"
        )
    value = ours / theirs if theirs else ours
    return Judgement(target=target, ours=ours, theirs=theirs, value=value, verdict=compare(target, value))


def compare(target: Target, value: float) -> Verdict:
    """Compare a value with must and aim."""
    sign = 1 if target.is_more_better else -1
    if sign * value >= sign * target.aim:
        return Verdict.MET
    return Verdict.MUST_ONLY if sign * value >= sign * target.must else Verdict.MISSED


def find(result: Result | None, peer: str, metric: Metric) -> float | None:
    """Return the median of a figure; None if it was not measured."""
    series = result.series.get(peer) if result else None
    return find_median(series.samples, metric) if series and series.failure is None else None


def find_losses(results: Mapping[str, Result]) -> dict[str, int]:
    """Return the loads in which this server lost, reordered, duplicated or corrupted messages, with their number."""
    losses: dict[str, int] = {}
    for name, result in results.items():
        samples = [sample for peer, series in result.series.items() if is_ours(peer) for sample in series.samples]
        count = int(sum(sample.get(metric, 0) for sample in samples for metric in (Metric.LOST, Metric.DISORDER)))
        if count:
            losses[name] = count
    return losses


def find_failures(results: Mapping[str, Result]) -> dict[str, str]:
    """Return the loads that this server has failed, with the reason."""
    return {
        name: series.failure
        for name, result in results.items()
        for peer, series in result.series.items()
        if is_ours(peer) and series.failure is not None
    }
