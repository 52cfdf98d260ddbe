"""Putting loads on servers: side by side, round by round, each round in another order."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Final

from benchmarks.generator import BenchmarkError, build_generator, open_mirror, parse_drive, run_drive
from benchmarks.loads import JUDGED, ROUNDS_OTHERS, ROUNDS_QUICK, Kind, Load, make_arguments
from benchmarks.metrics import Metric, Sample, read_arrival, read_listening, read_memory, read_slow, read_traffic
from benchmarks.peers import Peer
from benchmarks.servers import Server, open_server

EDIT_PERIOD: Final = 0.4
PROBE_SECONDS: Final = 1.2


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


def run_load(load: Load, peers: Sequence[Peer], *, is_quick: bool) -> Result:
    """Put a load on every server that can take it, interleaved: A B C, C B A, A B C …"""
    taking = [peer for peer in peers if is_able(peer, load)]
    result = Result(load=load, series={peer.name: Series() for peer in taking})
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        if load.kind is not Kind.MEMORY:
            for peer in taking:
                try:
                    servers[peer.name] = stack.enter_context(open_server(peer, load.setup))
                except BenchmarkError as error:
                    result.series[peer.name].failure = str(error)
        for number in range(ROUNDS_QUICK if is_quick else load.rounds):
            for peer in taking if number % 2 == 0 else reversed(taking):
                series = result.series[peer.name]
                if series.failure is None and (number < ROUNDS_OTHERS or peer.name in JUDGED):
                    try:
                        series.samples.append(run_round(load, peer, servers.get(peer.name), is_quick=is_quick))
                    except BenchmarkError as error:
                        series.failure = str(error)
    return result


def is_able(peer: Peer, load: Load) -> bool:
    """Whether a server can take a load at all: by its setup, and by what it calls a room."""
    return peer.name in load.peers and (peer.has_rooms or load.options.get("clients", 1) == 1)


def run_round(load: Load, peer: Peer, server: Server | None, *, is_quick: bool) -> Sample:
    """One round of a load on one server; on a fresh one when none is given."""
    if server is None:
        with open_server(peer, load.setup) as fresh:
            warm_up(fresh)
            return RUNNERS[load.kind](load, fresh, is_quick)
    sample = RUNNERS[load.kind](load, server, is_quick)
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


def put_with_pings(load: Load, server: Server, is_quick: bool) -> Sample:
    """As `put`, while another process pings one open websocket a thousand times a second."""
    program = [str(build_generator()), "drive", server.url.replace("{}", "pinged"), "--rate", "1000", "--warm", "0.1"]
    with subprocess.Popen([*program, "--seconds", str(PROBE_SECONDS)], stdout=subprocess.PIPE, text=True) as pinging:
        time.sleep(0.3)  # it has dialled and settled by then; what is opened before its window goes unseen, no more
        sample = put(load, server, is_quick)
        text, _ = pinging.communicate()
    if pinging.returncode:
        raise BenchmarkError("the pinging websocket was closed")
    pings = parse_drive(text).traffic
    assert pings is not None
    return {**sample, Metric.STALL: pings.latency_us.max / 1000}


def put_with_edits(load: Load, server: Server, is_quick: bool) -> Sample:
    """The load twice, the second time with edits to another app: added, changed, broken, removed."""
    quiet = put(load, server, is_quick)
    server.wait_quiet()
    site = server.place.folder / "site.toml"
    before = read_generation(server)
    with edits(site):
        edited = put(load, server, is_quick)
    if read_generation(server) == before:
        raise BenchmarkError("no edit was applied")
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
    Kind.ROOMS: read_arrival,
    Kind.MEMORY: read_memory,
    Kind.RELOAD: read_traffic,
}

RUNNERS: Final[Mapping[Kind, Callable[[Load, Server, bool], Sample]]] = {
    **dict.fromkeys(Kind, put),
    Kind.ROOMS: put_with_pings,
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
