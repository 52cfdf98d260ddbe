"""Run the benchmark and write the report. `python -m benchmarks drive URL …` runs one load on any server."""

import argparse
import dataclasses
import fnmatch
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from benchmarks.generator import BenchmarkError, build_generator, find_no_tls
from benchmarks.loads import LOADS, Load
from benchmarks.machine import describe_machine, is_busy
from benchmarks.measure import Result, measure_ceiling, report_progress, run_load
from benchmarks.metrics import METRICS, Metric, find_median
from benchmarks.peers import PEERS, ROOT
from benchmarks.report import Run, make_target_table, write_report
from benchmarks.servers import Servers
from benchmarks.sweeps import SWEEPS
from benchmarks.targets import TARGETS, find_failures, find_losses

DOCS: Final = ROOT / "docs" / "benchmarks"
LATE: Final = 390.0
"""Seconds after which loads without a target get one round, so that a busy machine finishes in ten minutes, too."""
JUDGED: Final = {target.load for target in TARGETS}
CEILINGS: Final = ("fan-100-1", "fan-100-16", "fan-1000-1", "echo-50", "handshakes")
HEADLINES: Final = (Metric.THROUGHPUT, Metric.RATE, Metric.MEMORY)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each load, in a minute; writes no report")
    parser.add_argument("--only", nargs="+", metavar="LOAD", default=["*"], help="loads by name, with * and ?; writes no report")
    parser.add_argument("--peers", nargs="+", metavar="PEER", default=["*"], help="servers by name")
    parser.add_argument("--rounds", type=int, help="rounds of each load (default: 5 to 15 with a target, else 3)")
    parser.add_argument("--out", type=Path, help=f"where to write the report (default of a full run: {DOCS.relative_to(ROOT)})")
    parser.add_argument("--list", action="store_true", help="list all loads and servers")
    return parser.parse_args(argv)


def is_chosen(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def choose_loads(only: Sequence[str], *, is_quick: bool) -> list[Load]:
    swept = [load for sweep in SWEEPS for load in sweep.make_loads().values()]
    return [load for load in (*LOADS, *swept) if is_chosen(load.name, only) and (load.is_quick or not is_quick)]


def print_list() -> None:
    for load in choose_loads(["*"], is_quick=False):
        print(f"{load.name:20} {load.title}")
    for peer in PEERS:
        print(f"{peer.name:20} {peer.find_version() or f'not found: {peer.hint}'}")


def print_result(result: Result) -> None:
    """Print one line per server to stderr."""
    for name, series in result.series.items():
        if series.failure is not None:
            report_progress(f"    {name:10} failed: {series.failure}")
            continue
        medians = {metric: find_median(series.samples, metric) for metric in Metric}
        figures = [
            f"{metric} {value:,.{METRICS[metric].digits}f}{METRICS[metric].unit}"
            for metric, value in medians.items()
            if value is not None
        ]
        report_progress(f"    {name:10} {'  '.join(figures)}")


def measure(argv: Sequence[str], arguments: argparse.Namespace) -> Run:
    """Run all chosen loads; report progress on stderr."""
    started = time.monotonic()
    machine = describe_machine()
    if is_busy():
        report_progress(f"this machine is busy (load {machine['load before']}): figures will be unreliable")
    versions = {peer.name: peer.find_version() for peer in PEERS if is_chosen(peer.name, arguments.peers)}
    for peer in PEERS:
        if peer.name in versions and not versions[peer.name]:
            report_progress(f"{peer.name} not found, left out ({peer.hint})")
    peers = [peer for peer in PEERS if versions.get(peer.name)]
    loads = choose_loads(arguments.only, is_quick=arguments.quick)
    if (reason := find_no_tls()) is not None:
        report_progress(f"loads over TLS left out: {reason}")
        loads = [load for load in loads if not load.setup.is_tls]
    ceiling = measure_ceiling([load for load in loads if load.name in CEILINGS], is_quick=arguments.quick)
    results: dict[str, Result] = {}
    with Servers() as shared:
        for load in loads:
            passed = time.monotonic() - started
            rounds = arguments.rounds or (1 if passed > LATE and load.name not in JUDGED else load.rounds)
            report_progress(f"{passed:5.0f} s  {load.name}: {load.title}")
            # Otherwise each load gets fresh servers, without effects of earlier loads.
            is_sharing = arguments.quick or load.is_swept
            with nullcontext(shared) if is_sharing else Servers() as servers:
                results[load.name] = run_load(dataclasses.replace(load, rounds=rounds), peers, servers, is_quick=arguments.quick)
            print_result(results[load.name])
    return Run(
        command=" ".join(["python -m benchmarks", *argv]),
        seconds=time.monotonic() - started,
        machine=machine,
        versions=versions,
        ceiling=ceiling,
        results=results,
    )


def main(argv: Sequence[str]) -> int:
    """Return 0 if all loads ran and this server lost no messages. The exit status does not depend on speed."""
    if argv[:1] == ["drive"]:
        return subprocess.run([build_generator(), *argv], check=False).returncode
    arguments = parse_arguments(argv)
    if arguments.list:
        print_list()
        return 0
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for servers that do not raise it themselves
    build_generator()
    run = measure(argv, arguments)
    print(make_target_table(run))
    is_whole = arguments.only == ["*"] and arguments.peers == ["*"] and not arguments.quick
    if folder := arguments.out or (DOCS if is_whole else None):
        write_report(run, folder)
        report_progress(f"written to {folder}")
    losses = find_losses(run.results)
    for name, count in losses.items():
        report_progress(f"{name}: {count} messages lost, reordered, duplicated or corrupt")
    return 1 if losses or find_failures(run.results) else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BenchmarkError as error:
        sys.exit(f"benchmarks: {error}")
