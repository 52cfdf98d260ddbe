"""The figures: name, unit and better direction of each, and how they are read from a generator's report."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from benchmarks.generator import Drive


class Metric(StrEnum):
    """One figure of one run."""

    THROUGHPUT = "throughput"
    CPU = "cpu"
    P50 = "p50"
    P99 = "p99"
    LOST = "lost"
    DISORDER = "disorder"
    RATE = "rate"
    CPU_ARRIVAL = "cpu_arrival"
    CPU_MAIN = "cpu_main"
    MEMORY = "memory"
    RSS = "rss"
    BACKEND_CPU = "backend_cpu"
    JITTER_P50 = "jitter_p50"
    JITTER_P99 = "jitter_p99"
    STALL = "stall"
    BUMP = "bump"
    SLOW_CLOSED = "slow_closed"
    GENERATOR = "generator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """How to display and compare a figure."""

    title: str
    unit: str
    digits: int
    is_more_better: bool = False


METRICS: Final[Mapping[Metric, Meaning]] = {
    Metric.THROUGHPUT: Meaning(title="deliveries per second", unit="msg/s", digits=0, is_more_better=True),
    Metric.CPU: Meaning(title="server CPU per delivery", unit="µs", digits=2),
    Metric.P50: Meaning(title="p50 latency", unit="µs", digits=0),
    Metric.P99: Meaning(title="p99 latency", unit="µs", digits=0),
    Metric.LOST: Meaning(title="messages lost", unit="", digits=0),
    Metric.DISORDER: Meaning(title="reordered, duplicated or corrupt", unit="", digits=0),
    Metric.RATE: Meaning(title="arrivals per second", unit="/s", digits=0, is_more_better=True),
    Metric.CPU_ARRIVAL: Meaning(title="server CPU per arrival", unit="µs", digits=1),
    Metric.CPU_MAIN: Meaning(title="of which in the main process", unit="µs", digits=1),
    Metric.MEMORY: Meaning(title="memory per client", unit="KiB", digits=2),
    Metric.RSS: Meaning(title="server RSS", unit="MiB", digits=1),
    Metric.BACKEND_CPU: Meaning(title="backends' CPU", unit="cores", digits=2),
    Metric.JITTER_P50: Meaning(title="p50 jitter", unit="µs", digits=0),
    Metric.JITTER_P99: Meaning(title="p99 jitter", unit="µs", digits=0),
    Metric.STALL: Meaning(title="worst stall of the event loop", unit="ms", digits=1),
    Metric.BUMP: Meaning(title="p99 with edits / p99 without", unit="×", digits=2),
    Metric.SLOW_CLOSED: Meaning(title="slow clients closed", unit="", digits=0),
    Metric.GENERATOR: Meaning(title="generator's share of a core", unit="", digits=2),
}

Sample = Mapping[Metric, float]
"""The figures of one round."""


def read_traffic(drive: Drive) -> Sample:
    """Return the figures of a load with messages."""
    traffic = drive.traffic
    assert traffic is not None
    received = max(traffic.received, 1)
    return {
        Metric.THROUGHPUT: traffic.received / traffic.seconds,
        Metric.CPU: traffic.usage.server_cpu / received * 1e6,
        Metric.P50: traffic.latency_us.p50,
        Metric.P99: traffic.latency_us.p99,
        Metric.LOST: traffic.lost,
        Metric.DISORDER: traffic.reordered + traffic.duplicated + traffic.corrupt,
        Metric.RSS: traffic.usage.server_rss / 2**20,
        Metric.BACKEND_CPU: traffic.usage.backend_cpu / traffic.seconds,
        Metric.GENERATOR: traffic.generator_cpu / traffic.seconds,
    }


def read_listening(drive: Drive) -> Sample:
    """Return the figures of a load on a backend that sends by itself."""
    assert drive.traffic is not None
    jitter = drive.traffic.jitter_us
    return {**read_traffic(drive), Metric.JITTER_P50: jitter.p50, Metric.JITTER_P99: jitter.p99}


def read_slow(drive: Drive) -> Sample:
    """Return the figures of a load with clients that do not read."""
    assert drive.traffic is not None
    return {**read_traffic(drive), Metric.SLOW_CLOSED: drive.traffic.slow_closed}


def read_arrival(drive: Drive) -> Sample:
    """Return the figures of a load that only connects."""
    arrival = drive.arrival
    return {
        Metric.RATE: arrival.clients / arrival.seconds,
        Metric.CPU_ARRIVAL: arrival.usage.server_cpu / arrival.clients * 1e6,
        Metric.CPU_MAIN: arrival.usage.main_cpu / arrival.clients * 1e6,
        Metric.P50: arrival.latency_us.p50,
        Metric.P99: arrival.latency_us.p99,
        Metric.RSS: arrival.usage.server_rss / 2**20,
        Metric.GENERATOR: arrival.generator_cpu / arrival.seconds,
    }


def read_memory(drive: Drive) -> Sample:
    """Return the figures of a load that connects and stays idle."""
    settled = drive.arrival.settled
    grown = settled.server_rss - settled.server_rss_before
    return {Metric.MEMORY: grown / drive.arrival.clients / 1024, Metric.RSS: settled.server_rss / 2**20}


def find_median(samples: Sequence[Sample], metric: Metric) -> float | None:
    """Return the median of a figure over all rounds; None if no round has it."""
    values = [sample[metric] for sample in samples if metric in sample]
    return statistics.median(values) if values else None


def find_range(samples: Sequence[Sample], metric: Metric) -> tuple[float, float] | None:
    """Return minimum and maximum of a figure over all rounds; None if no round has it."""
    values = [sample[metric] for sample in samples if metric in sample]
    return (min(values), max(values)) if values else None
