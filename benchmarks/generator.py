"""The load generator: `load.c`, built on first use with the system's C compiler and run as a process of its own."""

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("load.c")
FLAGS: Final = ("-O2", "-std=gnu11", "-Wall", "-Wextra")
TLS_LIBRARIES: Final = ("libssl.so.3", "libssl.so.1.1", "libssl.so")
"""What `load.c` opens for TLS, the first that is there."""
LIBRARIES: Final = ("-ldl",)


class BenchmarkError(Exception):
    """A load that could not be run; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a server's processes used between two moments; its backends are counted apart."""

    server_cpu: float
    """Seconds."""
    main_cpu: float
    """Seconds, of the process the harness started alone."""
    backend_cpu: float
    server_rss: int
    """Bytes, at the second moment."""
    main_rss: int
    """Bytes, of that process alone."""
    backend_rss: int
    server_rss_before: int
    """Bytes, at the first moment."""
    server_processes: int
    backends: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A distribution of times, in microseconds (0 where nothing was counted)."""

    count: int
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """How the clients came."""

    clients: int
    seconds: float
    deflating: int
    """Clients whose compression the server agreed to."""
    generator_cpu: float
    latency_us: Spread
    """From connect to upgraded, or to the first echo."""
    usage: Usage
    """While they came."""
    settled: Usage
    """The same, after the silence that followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What was said once all had come."""

    seconds: float
    sent: int
    received: int
    """In the measured window, summed over clients."""
    expected_in_all: int
    """Deliveries due in the whole run, warm-up and drain included; the next four are of these."""
    lost: int
    reordered: int
    duplicated: int
    corrupt: int
    other: int
    """Messages that are not ours, such as joins."""
    stalls: int
    """Times that a second passed without anything."""
    closed: int
    """Clients closed by the server."""
    last_code: int
    slow_closed: int
    """Clients that do not read, closed by the server."""
    generator_cpu: float
    latency_us: Spread
    jitter_us: Spread
    """Only when listening: how far each gap was from the period."""
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """The report of one run of the generator."""

    arrival: Arrival
    traffic: Traffic | None


def find_no_tls() -> str | None:
    """Why loads over TLS cannot be put on this machine; None when they can.

    The generator opens OpenSSL's library when it runs, so its headers are not needed.
    """
    if shutil.which("openssl") is None:
        return "no openssl command to make a certificate with"
    for name in TLS_LIBRARIES:
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return None
    return f"none of {', '.join(TLS_LIBRARIES)} found"


def build_generator() -> Path:
    """Compile `load.c` unless this very source was compiled before; where the program lies.

    Raises BenchmarkError when there is no C compiler, or it refuses.
    """
    compiler = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        raise BenchmarkError("no C compiler found (the load generator is benchmarks/load.c): install gcc or clang, or set CC")
    mark = hashlib.sha256(SOURCE.read_bytes() + " ".join((compiler, *FLAGS)).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scalesocket-benchmarks"
    program = cache / f"load-{mark}"
    if program.exists():
        return program
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        fresh = Path(folder) / "load"
        built = subprocess.run([compiler, *FLAGS, "-o", fresh, SOURCE, *LIBRARIES], capture_output=True, text=True, check=False)
        if built.returncode:
            raise BenchmarkError(f"{compiler} could not build {SOURCE.name}:\n{built.stderr}")
        fresh.replace(program)
    return program


def run_drive(url: str, options: Sequence[str], *, pid: int = 0, levels: int = 1, timeout: float = 60.0) -> Drive:
    """Put one load on `url` and wait for its report; the server is `pid` and `levels` generations of its processes.

    Raises BenchmarkError when the load could not be put: refused, closed, or not done within `timeout` seconds.
    """
    command = [str(build_generator()), "drive", url, *options, "--pid", str(pid), "--levels", str(levels)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"not done within {timeout:.0f} s: {' '.join(command[1:])}") from error
    if done.returncode:
        raise BenchmarkError(done.stderr.strip() or f"the generator ended with {done.returncode}")
    return parse_drive(done.stdout)


def parse_drive(text: str) -> Drive:
    """Read the JSON the generator prints."""
    report = json.loads(text)
    arrival, traffic = report["arrival"], report.get("traffic")
    return Drive(
        arrival=Arrival(
            **{
                **arrival,
                "latency_us": Spread(**arrival["latency_us"]),
                "usage": Usage(**arrival["usage"]),
                "settled": Usage(**arrival["settled"]),
            }
        ),
        traffic=traffic
        and Traffic(
            **{
                **traffic,
                "latency_us": Spread(**traffic["latency_us"]),
                "jitter_us": Spread(**traffic["jitter_us"]),
                "usage": Usage(**traffic["usage"]),
            }
        ),
    )


@contextmanager
def open_mirror() -> Iterator[tuple[int, str]]:
    """The generator's own trivial server, which every load can be put on to see how far the generator goes; pid and URL."""
    with subprocess.Popen([build_generator(), "serve"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, f"ws://127.0.0.1:{process.stdout.readline().strip()}/{{}}"
        finally:
            process.terminate()
