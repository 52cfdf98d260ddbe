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
"""Libraries that `load.c` tries for TLS, in this order."""
LIBRARIES: Final = ("-ldl",)


class BenchmarkError(Exception):
    """A load that could not be run; the message gives the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Resources that a server's processes used between two points in time; backends are counted separately."""

    server_cpu: float
    """Seconds."""
    main_cpu: float
    """Seconds, of the server's first process only."""
    backend_cpu: float
    server_rss: int
    """Bytes, at the end."""
    main_rss: int
    """Bytes, of the first process only."""
    backend_rss: int
    server_rss_before: int
    """Bytes, at the beginning."""
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
    """The connection phase."""

    clients: int
    seconds: float
    deflating: int
    """Clients that negotiated compression."""
    generator_cpu: float
    latency_us: Spread
    """From connect to the end of the handshake, or to the first echo."""
    usage: Usage
    """During the phase."""
    settled: Usage
    """From its beginning to the end of the quiet time that followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The message phase, after all clients have connected."""

    seconds: float
    sent: int
    received: int
    """In the measured window, summed over clients."""
    expected_in_all: int
    """Deliveries due in the whole run, warm-up and drain included; the next four fields count among these."""
    lost: int
    reordered: int
    duplicated: int
    corrupt: int
    other: int
    """Messages from elsewhere, such as join messages."""
    stalls: int
    """Number of seconds without any progress."""
    closed: int
    """Clients closed by the server."""
    last_code: int
    slow_closed: int
    """Clients that do not read, closed by the server."""
    generator_cpu: float
    latency_us: Spread
    jitter_us: Spread
    """Only for listening loads: the difference between each gap and the period."""
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """The report of one run of the generator."""

    arrival: Arrival
    traffic: Traffic | None


def find_no_tls() -> str | None:
    """Return why loads over TLS cannot run on this machine; None if they can.

    The generator loads OpenSSL's library at run time, so its headers are not needed.
    """
    if shutil.which("openssl") is None:
        return "no openssl command to make a certificate with"
    for name in TLS_LIBRARIES:
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return None
    return f"none of {', '.join(TLS_LIBRARIES)} found"


def build_generator() -> Path:
    """Compile `load.c`, unless the same source was compiled before, and return the program's path.

    Raises BenchmarkError if there is no C compiler or it fails.
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
    """Run one load on `url` and return its report; the server is `pid` and `levels` generations of its processes.

    Raises BenchmarkError if the load failed: refused, closed, or not finished within `timeout` seconds.
    """
    command = [str(build_generator()), "drive", url, *options, "--pid", str(pid), "--levels", str(levels)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"not finished within {timeout:.0f} s: {' '.join(command[1:])}") from error
    if done.returncode:
        raise BenchmarkError(done.stderr.strip() or f"the generator exited with {done.returncode}")
    return parse_drive(done.stdout)


def parse_drive(text: str) -> Drive:
    """Parse the JSON report of the generator."""
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
    """Run the generator's own trivial server, which shows the generator's limit for each load; yield its pid and URL."""
    with subprocess.Popen([build_generator(), "serve"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, f"ws://127.0.0.1:{process.stdout.readline().strip()}/{{}}"
        finally:
            process.terminate()
