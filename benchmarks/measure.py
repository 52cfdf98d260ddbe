"""Putting loads on servers: side by side, round by round, each round in another order."""

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
"""Loads that get a server of their own each round."""


@dataclass(slots=True, kw_only=True)
class Series:
    """The rounds of one load on one server."""

    samples: list[Sample] = field(default_factory=list)
    failure: str | None = None
    """Why there are no more rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one load did to every server."""

    load: Load
    series: Mapping[str, Series]
    """By the peer's name."""


def run_load(load: Load, peers: Sequence[Peer], servers: Servers, *, is_quick: bool) -> Result:
    """Put a load on every server that can take it, interleaved: A B C, C B A, A B C …"""
    taking = [peer for peer in peers if is_able(peer, load, is_quick=is_quick)]
    result = Result(load=load, series={peer.name: Series() for peer in taking})
    if load.kind not in ON_FRESH:
        for peer in taking:  # all are up before the first round
            with noting_failure(result.series[peer.name]):
                servers.get(peer, load.setup)
    for number in range(ROUNDS_QUICK if is_quick else load.rounds):
        for peer in taking if number % 2 == 0 else reversed(taking):
            series = result.series[peer.name]
            if series.failure is None and (number < ROUNDS_OTHERS or peer.name in load.judged_peers):
                with noting_failure(series):
                    series.samples.append(run_round(load, peer, servers, is_quick=is_quick))
    return result


def is_able(peer: Peer, load: Load, *, is_quick: bool) -> bool:
    """Whether a server is to take a load: by the load's list, and by what the server calls a room."""
    is_listed = peer.name in load.peers and (not is_quick or peer.name in load.judged_peers)
    return is_listed and (peer.has_rooms or load.options.get("clients", 1) == 1)


@contextmanager
def noting_failure(series: Series) -> Iterator[None]:
    """A load that cannot be put on one server is that server's result; the others go on."""
    try:
        yield
    except BenchmarkError as error:
        series.failure = str(error)


def run_round(load: Load, peer: Peer, servers: Servers, *, is_quick: bool) -> Sample:
    """One round of a load on one server."""
    put_on = RUNNERS[load.kind]
    if load.kind in ON_FRESH:
        if load.kind is Kind.STALLS:
            peer = dataclasses.replace(peer, make_command=ours_watched)
        with open_server(peer, load.setup) as fresh:
            warm_up(fresh)
            return put_on(load, fresh, is_quick)
    server = servers.get(peer, load.setup)
    sample = put_on(load, server, is_quick)
    server.wait_quiet()
    return sample


def warm_up(server: Server) -> None:
    """Open and close a room of a hundred clients, so that what is made once is not counted as theirs."""
    run_drive(server.url, ["--clients", "100"], timeout=30)
    server.wait_quiet()


def put(load: Load, server: Server, is_quick: bool) -> Sample:
    """The usual way: run the generator once and read its report."""
    drive = run_drive(server.url, make_arguments(load, is_quick=is_quick), pid=server.pid, levels=server.peer.levels)
    if load.setup.is_compressed and not drive.arrival.deflating:
        raise BenchmarkError(f"{server.peer.title} did not agree to compress")
    return READERS[load.kind](drive)


def put_watched(load: Load, server: Server, is_quick: bool) -> Sample:
    """As `put`; before the clients leave, the server is asked for the worst stall it has seen since they came."""
    report = server.place.folder / "stalls"
    ask_stalls(server, report)  # what starting took does not count
    words = [str(build_generator()), "drive", server.url, *make_arguments(load, is_quick=is_quick), "--wait"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as generator:
        assert generator.stdout is not None
        text = generator.stdout.readline()
        stall = ask_stalls(server, report) if text else 0.0
        generator.communicate()
    if not text:
        raise BenchmarkError(f"the generator ended with {generator.returncode}")
    return {Metric.STALL: stall, Metric.RATE: read_arrival(parse_drive(text))[Metric.RATE]}


def ask_stalls(server: Server, report: Path) -> float:
    """The worst stall since it was last asked, in milliseconds, from a server that watches itself."""
    report.unlink(missing_ok=True)
    os.kill(server.pid, signal.SIGUSR1)
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while not report.exists():
        if time.monotonic() > deadline:
            raise BenchmarkError("the watched server does not answer")
        time.sleep(0.01)
    return float(report.read_text())


def put_with_edits(load: Load, server: Server, is_quick: bool) -> Sample:
    """The load twice, the second time with edits to another app: added, changed, broken, removed.

    Edits follow each other closely, and on a machine that stands still for a moment one may hide all others of a round:
    a round without one that was applied says nothing and is done again, but not for ever.
    """
    for _ in range(ATTEMPTS):
        quiet = put(load, server, is_quick)
        server.wait_quiet()
        before = read_generation(server)
        with edits(server.place.folder / "site.toml"):
            edited = put(load, server, is_quick)
        if read_generation(server) != before:
            break
        server.wait_quiet()
    else:
        raise BenchmarkError(f"no edit was applied in {ATTEMPTS} rounds")
    return {**edited, Metric.LOST: quiet[Metric.LOST] + edited[Metric.LOST], Metric.BUMP: edited[Metric.P99] / quiet[Metric.P99]}


@contextmanager
def edits(site: Path) -> Iterator[None]:
    """Edit a site file every 0.4 s (it is read after 0.2 s of silence), and leave it as it was."""
    original = site.read_text()
    other = '\n[apps.other]\ncommand = ["cat"]\n'
    texts = [original + other, original + other + 'routing = "json"\n', original + "[apps.", original]
    done = Event()

    def edit() -> None:
        turn = 0
        while not done.wait(EDIT_PERIOD):
            site.write_text(texts[turn % len(texts)])
            turn += 1

    editor = Thread(target=edit, name="editor")
    editor.start()
    try:
        yield
    finally:
        done.set()
        editor.join()
        site.write_text(original)


def read_generation(server: Server) -> float:
    """How many edits a server has applied, from its metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.place.port}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("scalesocket_config_generation "):
                return float(line.split()[1])
    raise BenchmarkError("/metrics says nothing of scalesocket_config_generation")


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
    **dict.fromkeys(Kind, put),
    Kind.STALLS: put_watched,
    Kind.RELOAD: put_with_edits,
}


def measure_ceiling(loads: Sequence[Load], *, is_quick: bool) -> dict[str, Sample]:
    """What the generator reaches against its own trivial server, by load: no backend, no limits, no checks."""
    ceiling: dict[str, Sample] = {}
    with open_mirror() as (pid, url):
        for load in loads:
            drive = run_drive(url, make_arguments(load, is_quick=is_quick), pid=pid)
            ceiling[load.name] = READERS[load.kind](drive)
    return ceiling


def say(text: str) -> None:
    """Progress goes to stderr; stdout is for the report."""
    print(text, file=sys.stderr, flush=True)
