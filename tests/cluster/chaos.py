"""Break a cluster of three nodes again and again under load: `python -m tests.cluster.chaos --seconds 300`, or `make chaos`.

Prints each fault, and at the end the figures. Exits with 1 if a room had two owners, or a message was lost.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.acts import find_overlaps, find_shared_fences, find_wrong_leaves
from tests.cluster.faults import FAULTS, Fault, run_fault
from tests.cluster.load import Load
from tests.cluster.namespaces import Machines, open_machines
from tests.cluster.running import RunningCluster, running_cluster

ROOMS: Final = 8


class Figures:
    """What happened."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.recoveries: defaultdict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []
        self.moved = 0
        self.echoes = 0
        self.lost: list[str] = []
        self.closes: Counter[int | str] = Counter()
        self.hand_overs = 0.0
        self._seen: dict[tuple[str, int], float] = {}

    async def run(self, cluster: RunningCluster, fault: Fault, serial: int) -> None:
        """Break the cluster once, with clients in new rooms."""
        async with Load(cluster, [f"c{serial}-{number}" for number in range(ROOMS)]) as load:
            try:
                await load.wait_playing(within=3 * cluster.lease + 10)
                await self.count_hand_overs(cluster)
                outcome = await run_fault(cluster, load, fault)
                await self.count_hand_overs(cluster)
                await load.end()
            except AssertionError as error:
                self.failures.append(f"{fault.name}: {str(error)[:4000]}")
                await cluster.mend()
                say(f"{fault.name:45} FAILED")
            else:
                took = "" if outcome.seconds is None else f"recovered in {outcome.seconds:.2f} s, "
                say(f"{fault.name:45} {took}{outcome.moved} of {ROOMS} rooms moved")
                self.moved += outcome.moved
                if outcome.seconds is not None:
                    self.recoveries[fault.name].append(outcome.seconds)
        self.runs[fault.name] += 1
        self.echoes += load.echoes
        self.lost += load.faults
        self.closes += load.closes

    async def count_hand_overs(self, cluster: RunningCluster) -> None:
        """Add what the nodes have counted since the last time."""
        for node in cluster.nodes:
            with suppress(OSError):
                text = await asyncio.to_thread(read_metrics, node.address)
                count = sum(
                    float(line.split()[-1])
                    for line in text.splitlines()
                    if line.startswith("scalesocket_cluster_hand_overs_total{") and 'result="taken"' in line
                )
                before = self._seen.get((node.name, node.gateway), 0.0)
                self._seen[node.name, node.gateway] = count
                self.hand_overs += count - before

    def report(self, cluster: RunningCluster, seconds: float) -> bool:
        """Print the figures; return whether all is as it must be."""
        acts = cluster.acts.read()
        overlaps, shared = list(find_overlaps(acts)), find_shared_fences(acts)
        wrong = list(find_wrong_leaves(acts, ()))
        say(f"\n{'fault':45} {'runs':>5}  recovery: median, longest")
        for name, runs in self.runs.items():
            times = self.recoveries[name]
            took = f"{statistics.median(times):9.2f} s {max(times):8.2f} s" if times else ""
            say(f"{name:45} {runs:5}  {took}")
        say(f"\n{sum(self.runs.values())} faults in {seconds:.0f} s, with a lease of {cluster.lease:g} s")
        say(f"acts of backends            {len(acts):,}")
        say(f"overlaps                    {len(overlaps)}")
        say(f"fences with two backends    {len(shared)}")
        say(f"joins and leaves that do not match  {len(wrong)}")
        say(f"messages that came back     {self.echoes:,}")
        say(f"lost, doubled or reordered  {len(self.lost)}")
        say(f"hand-overs                  {self.hand_overs:.0f}")
        say(f"rooms that moved            {self.moved}")
        say(f"disconnected clients        {dict(self.closes)}")
        say(f"faults that did not end as they must  {len(self.failures)}")
        for failure in self.failures:
            say(f"\n{failure}")
        return not (overlaps or shared or wrong or self.lost or self.failures)


def read_metrics(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=2) as answer:
        text: str = answer.read().decode()
        return text


def say(words: str) -> None:
    print(words, flush=True)


async def run(seconds: float, lease: float, seed: int, machines: Machines | None) -> bool:
    """Break a cluster for so long; return whether all was as it must be."""
    rng = random.Random(seed)
    faults = [fault for fault in FAULTS if machines is not None or not fault.needs_machines]
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="scalesocket-chaos-") as folder:
        async with running_cluster(Path(folder), lease=lease, machines=machines) as cluster:
            started = time.monotonic()
            serial = 0
            while time.monotonic() < started + seconds:
                for fault in rng.sample(faults, len(faults)):
                    if time.monotonic() >= started + seconds:
                        break
                    await figures.run(cluster, fault, serial := serial + 1)
            return figures.report(cluster, time.monotonic() - started)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--lease", type=float, default=2.0, help="seconds (default: 2)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the order of the faults")
    arguments = parser.parse_args()
    say(f"seed {arguments.seed}")
    with ExitStack() as stack:
        machines = None
        try:
            machines = stack.enter_context(open_machines(3))
        except pytest.skip.Exception as skipped:
            say(f"without partitions: {skipped}")
        try:
            return 0 if asyncio.run(run(arguments.seconds, arguments.lease, arguments.seed, machines)) else 1
        except pytest.skip.Exception as skipped:
            say(str(skipped))
            return 1


if __name__ == "__main__":
    sys.exit(main())
