"""Runs loads on servers, side by side, in interleaved rounds."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Final

from benchmarks.generator import BenchmarkError, build_generator, open_mirror, parse_drive, run_drive
from benchmarks.loads import ROUNDS_OTHERS, ROUNDS_QUICK, Kind, Load, make_arguments
from benchmarks.metrics import Metric, Sample, read_arrival, read_listening, read_memory, read_slow, read_traffic
from benchmarks.peers import Peer, ours_watched
from benchmarks.servers import Server, Servers, open_server

EDIT_PERIOD: Final = 0.4
ATTEMPTS: Final = 3
ANSWER_TIMEOUT: Final = 5.0
ON_FRESH: Final = {Kind.MEMORY, Kind.STALLS}
"""Loads that need a fresh server each round."""


@dataclass(slots=True, kw_only=True)
class Series:
    """The rounds of one load on one server."""

    samples: list[Sample] = field(default_factory=list)
    failure: str | None = None
    """Why further rounds were skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The results of one load on all servers."""

    load: Load
    series: Mapping[str, Series]
    """By the peer's name."""


def run_load(load: Load, peers: Sequence[Peer], servers: Servers, *, is_quick: bool) -> Result:
    """Run a load on every server that supports it, interleaved: A B C, C B A, A B C …"""
    taking = [peer for peer in peers if is_able(peer, load, is_quick=is_quick)]
    result = Result(load=load, series={peer.name: Series() for peer in taking})
    if load.kind not in ON_FRESH:
        for peer in taking:  # all are running before the first round
            with recording_failure(result.series[peer.name]):
                servers.get(peer, load.setup)
    for number in range(ROUNDS_QUICK if is_quick else load.rounds):
        for peer in taking if number % 2 == 0 else reversed(taking):
            series = result.series[peer.name]
            if series.failure is None and (number < ROUNDS_OTHERS or peer.name in load.judged_peers):
                with recording_failure(series):
                    series.samples.append(run_round(load, peer, servers, is_quick=is_quick))
    return result


def is_able(peer: Peer, load: Load, *, is_quick: bool) -> bool:
    """Whether a server runs a load: the load lists it, and it has shared rooms if the load needs them."""
    is_listed = peer.name in load.peers and (not is_quick or peer.name in load.judged_peers)
    return is_listed and (peer.has_rooms or load.options.get("clients", 1) == 1)


@contextmanager
def recording_failure(series: Series) -> Iterator[None]:
    """Record a failure as the result of one server, and continue with the others."""
    try:
        yield
    except BenchmarkError as error:
        series.failure = str(error)


def run_round(load: Load, peer: Peer, servers: Servers, *, is_quick: bool) -> Sample:
    """Run one round of a load on one server."""
    run = RUNNERS[load.kind]
    if load.kind in ON_FRESH:
        if load.kind is Kind.STALLS:
            peer = dataclasses.replace(peer, make_command=ours_watched)
        with open_server(peer, load.setup) as fresh:
            warm_up(fresh)
            return run(load, fresh, is_quick)
    server = servers.get(peer, load.setup)
    sample = run(load, server, is_quick)
    server.wait_quiet()
    return sample


def warm_up(server: Server) -> None:
    """Open and close a room of a hundred clients, so that one-time allocations are not counted."""
    run_drive(server.url, ["--clients", "100"], timeout=30)
    server.wait_quiet()


def run_once(load: Load, server: Server, is_quick: bool) -> Sample:
    """Run the generator once and return the figures of its report."""
    argv = make_arguments(load, is_quick=is_quick)
    if server.peer.wants_tokens:
        argv += ["--bearers", str(server.place.bearers)]
    drive = run_drive(server.url, argv, pid=server.pid, levels=server.peer.levels)
    if load.setup.is_compressed and not drive.arrival.deflating:
        raise BenchmarkError(f"{server.peer.title} did not negotiate compression")
    return READERS[load.kind](drive)


def run_watched(load: Load, server: Server, is_quick: bool) -> Sample:
    """Run the generator once; before its clients leave, ask the server for its worst stall since they connected."""
    report = server.place.folder / "stalls"
    ask_stalls(server, report)  # discard stalls of the start
    argv = [str(build_generator()), "drive", server.url, *make_arguments(load, is_quick=is_quick), "--wait"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as generator:
        assert generator.stdout is not None
        text = generator.stdout.readline()
        stall = ask_stalls(server, report) if text else 0.0
        generator.communicate()
    if not text:
        raise BenchmarkError(f"the generator exited with {generator.returncode}")
    return {Metric.STALL: stall, Metric.RATE: read_arrival(parse_drive(text))[Metric.RATE]}


def ask_stalls(server: Server, report: Path) -> float:
    """Ask a server that measures itself for its worst stall since the last call, in milliseconds."""
    report.unlink(missing_ok=True)
    os.kill(server.pid, signal.SIGUSR1)
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while not report.exists():
        if time.monotonic() > deadline:
            raise BenchmarkError("the measured server does not answer")
        time.sleep(0.01)
    return float(report.read_text())


def run_with_edits(load: Load, server: Server, is_quick: bool) -> Sample:
    """Run the load twice, the second time with edits of another app: added, changed, broken, removed.

    A round without an applied edit is repeated, up to `ATTEMPTS` times: on a machine that stalls, one edit may replace the
    others before the server reads them.
    """
    for _ in range(ATTEMPTS):
        quiet = run_once(load, server, is_quick)
        server.wait_quiet()
        before = read_generation(server)
        with edits(server.place.folder / "site.toml"):
            edited = run_once(load, server, is_quick)
        if read_generation(server) != before:
            break
        server.wait_quiet()
    else:
        raise BenchmarkError(f"no edit was applied in {ATTEMPTS} rounds")
    return {**edited, Metric.LOST: quiet[Metric.LOST] + edited[Metric.LOST], Metric.BUMP: edited[Metric.P99] / quiet[Metric.P99]}


@contextmanager
def edits(site: Path) -> Iterator[None]:
    """Edit a site file every 0.4 s (the server reads it after 0.2 s without a change), and restore it at the end."""
    original = site.read_text()
    other = '\n[apps.other]\ncommand = ["cat"]\n'
    texts = [original + other, original + other + 'routing = "json"\n', original + "[apps.", original]
    done = Event()

    def edit() -> None:
        number = 0
        while not done.wait(EDIT_PERIOD):
            site.write_text(texts[number % len(texts)])
            number += 1

    editor = Thread(target=edit, name="editor")
    editor.start()
    try:
        yield
    finally:
        done.set()
        editor.join()
        site.write_text(original)


def read_generation(server: Server) -> float:
    """Return the number of edits that a server has applied, from its metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.place.port}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("scalesocket_config_generation "):
                return float(line.split()[1])
    raise BenchmarkError("/metrics has no scalesocket_config_generation")


READERS: Final = {
    Kind.TRAFFIC: read_traffic,
    Kind.LISTENING: read_listening,
    Kind.SLOW: read_slow,
    Kind.ARRIVAL: read_arrival,
    Kind.STALLS: read_arrival,
    Kind.MEMORY: read_memory,
    Kind.RELOAD: read_traffic,
}

RUNNERS: Final[Mapping[Kind, Callable[[Load, Server, bool], Sample]]] = {
    **dict.fromkeys(Kind, run_once),
    Kind.STALLS: run_watched,
    Kind.RELOAD: run_with_edits,
}


def measure_ceiling(loads: Sequence[Load], *, is_quick: bool) -> dict[str, Sample]:
    """Run loads on the generator's own trivial server, which has no backend, limits or checks; return the figures by load."""
    ceiling: dict[str, Sample] = {}
    with open_mirror() as (pid, url):
        for load in loads:
            drive = run_drive(url, make_arguments(load, is_quick=is_quick), pid=pid)
            ceiling[load.name] = READERS[load.kind](drive)
    return ceiling


def report_progress(text: str) -> None:
    """Print to stderr; stdout is for the report."""
    print(text, file=sys.stderr, flush=True)
