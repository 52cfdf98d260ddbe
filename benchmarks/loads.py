"""The loads, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from benchmarks.peers import COMPRESSED, JSON, PLAIN, TICK, TLS, Setup

Options = Mapping[str, float | bool]
"""Options of the load generator, without their dashes."""


class Kind(Enum):
    """How a load is run and which figures it gives."""

    TRAFFIC = auto()
    LISTENING = auto()
    """The backend sends by itself."""
    SLOW = auto()
    """Some clients do not read."""
    ARRIVAL = auto()
    STALLS = auto()
    """Stalls of our event loop, on a server that measures itself."""
    MEMORY = auto()
    """On a fresh server each round, because used memory is seldom returned."""
    RELOAD = auto()
    """The site file is edited during the load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One load, which runs on several servers."""

    name: str
    title: str
    options: Options
    setup: Setup = PLAIN
    kind: Kind = Kind.TRAFFIC
    peers: tuple[str, ...] = ("ours", "rust")
    rounds: int = 3
    quick: Options = field(default_factory=dict)
    """Options for a quick run, mostly smaller sizes."""
    judged_peers: tuple[str, ...] = ("ours", "rust")
    """Servers whose figures belong to a target: they get all rounds, and run in a quick run."""
    is_quick: bool = True
    """Whether a quick run includes it."""
    is_swept: bool = False
    """Whether it is a point of a sweep."""


WITH_WORKERS: Final = ("ours", "ours-2", "rust")
"""Servers of a load by which workers are judged."""
ALL: Final = ("ours", "rust", "quart", "websocketd", "node", "picows")
WITH_TLS: Final = ("ours", "node", "rust-nginx", "rust-haproxy")
ROUNDS_JUDGED: Final = 5
ROUNDS_WORKERS: Final = 7
ROUNDS_SHORT: Final = 15
ROUNDS_OTHERS: Final = 2
ROUNDS_QUICK: Final = 1
WINDOW: Final[Options] = {"seconds": 1.0, "warm": 0.3}
WINDOW_SHORT: Final[Options] = {"seconds": 0.4, "warm": 0.2}
"""For loads in which processes wake each other for every message. The cost of that changes from second to second; with short,
interleaved rounds it changes for every server alike."""
WINDOW_QUICK: Final[Options] = {"seconds": 0.4, "warm": 0.2}


def broadcast(clients: int, in_flight: int, size: int = 100, **more: bool) -> Options:
    """One room: one client sends, all receive."""
    return {"clients": clients, "senders": 1, "in-flight": in_flight, "size": size, **more}


def echo(rooms: int, in_flight: int, **more: bool) -> Options:
    """Rooms of one client, which receives its own messages. Starts when every backend answers; starting them is another load."""
    return {"rooms": rooms, "senders": 1, "in-flight": in_flight, "first-echo": True, **more}


OPENING: Final[Options] = {"rooms": 300, "concurrency": 20, "first-echo": True}

LOADS: Final = (
    Load(
        name="fan-100-16",
        title="broadcast to 100, 16 in flight",
        options=broadcast(100, 16),
        rounds=ROUNDS_JUDGED,
        peers=ALL,
        judged_peers=("ours", "rust", "quart"),
    ),
    Load(
        name="fan-100-16-json",
        title="broadcast to 100, 16 in flight, json",
        options=broadcast(100, 16, json=True),
        setup=JSON,
        rounds=ROUNDS_JUDGED,
    ),
    Load(
        name="fan-100-1",
        title="broadcast to 100, 1 in flight",
        options={**WINDOW_SHORT, **broadcast(100, 1)},
        rounds=ROUNDS_SHORT,
    ),
    Load(
        name="fan-100-1-json",
        title="broadcast to 100, 1 in flight, json",
        options={**WINDOW_SHORT, **broadcast(100, 1, json=True)},
        setup=JSON,
        rounds=ROUNDS_SHORT,
    ),
    Load(
        name="fan-1000-1",
        title="broadcast to 1,000, 1 in flight",
        options={**WINDOW_SHORT, **broadcast(1000, 1)},
        rounds=ROUNDS_SHORT,
    ),
    Load(
        name="fan-4x250",
        title="broadcast in 4 rooms of 250, 1 in flight",
        options={**WINDOW_SHORT, **broadcast(250, 1), "rooms": 4},
        rounds=ROUNDS_WORKERS,
        peers=WITH_WORKERS,
        judged_peers=WITH_WORKERS,
    ),
    Load(
        name="echo-50",
        title="echo, 50 rooms, 8 in flight",
        options=echo(50, 8),
        rounds=ROUNDS_JUDGED,
        peers=("ours-2", *ALL),
        judged_peers=WITH_WORKERS,
    ),
    Load(
        name="echo-50-json",
        title="echo, 50 rooms, 8 in flight, json",
        options=echo(50, 8, json=True),
        setup=JSON,
        rounds=ROUNDS_JUDGED,
    ),
    Load(
        name="echo-1", title="echo, 1 client, 1 in flight", options={**WINDOW_SHORT, **echo(1, 1)}, rounds=ROUNDS_SHORT, peers=ALL
    ),
    Load(
        name="handshakes",
        title="handshakes, 4,000 clients of one room, 64 at a time",
        options={"clients": 4000, "concurrency": 64, "sources": 8},
        quick={"clients": 1000},
        kind=Kind.ARRIVAL,
        rounds=ROUNDS_SHORT,
        peers=("ours", "ours-2", "ours-jwt", "rust", "quart", "node", "picows"),
        judged_peers=("ours", "ours-2", "ours-jwt", "rust"),
    ),
    Load(
        name="handshakes-rooms",
        title="handshakes, 4,000 clients of 50 open rooms, 64 at a time",
        options={"rooms": 50, "clients": 80, "concurrency": 64, "sources": 8, "opened": True},
        quick={"rooms": 20, "clients": 50},
        kind=Kind.ARRIVAL,
        rounds=ROUNDS_WORKERS,
        peers=WITH_WORKERS,
        judged_peers=WITH_WORKERS,
    ),
    Load(
        name="rooms",
        title="rooms opened, 300 on `cat`, connect to first echo, 20 at a time",
        options=OPENING,
        quick={"rooms": 100},
        kind=Kind.ARRIVAL,
        rounds=ROUNDS_SHORT,
        peers=("ours", "ours-2", "rust", "quart", "websocketd", "node"),
        judged_peers=WITH_WORKERS,
    ),
    Load(
        name="rooms-stalls",
        title="the same, measured for stalls",
        options=OPENING,
        quick={"rooms": 100},
        kind=Kind.STALLS,
        rounds=ROUNDS_JUDGED,
        peers=("ours",),
    ),
    Load(
        name="idle-9000",
        title="idle memory, 9,000 clients of one room",
        options={"clients": 9000, "sources": 8, "hold": 0.5},
        quick={"clients": 2000},
        kind=Kind.MEMORY,
        rounds=ROUNDS_JUDGED,
    ),
    Load(
        name="reload",
        title="1,000 messages per second in 50 rooms of 2, the site file edited every 0.4 s",
        options={"rooms": 50, "clients": 2, "senders": 1, "rate": 1000, "in-flight": 64, "seconds": 2.0},
        quick={"seconds": 1.0},
        kind=Kind.RELOAD,
        peers=("ours",),
        rounds=ROUNDS_JUDGED,
    ),
    Load(
        name="idle-10000",
        title="idle memory, 10,000 clients",
        options={"clients": 10000, "sources": 8, "hold": 0.5},
        kind=Kind.MEMORY,
        rounds=1,
        is_quick=False,
    ),
    Load(name="fan-100-8", title="broadcast to 100, 8 in flight", options=broadcast(100, 8), is_quick=False),
    Load(name="fan-100-256", title="broadcast to 100, 256 in flight", options=broadcast(100, 256)),
    Load(name="fan-100-1-4k", title="broadcast to 100, 1 in flight, 4 kB", options=broadcast(100, 1, 4000)),
    Load(name="fan-100-16-4k", title="broadcast to 100, 16 in flight, 4 kB", options=broadcast(100, 16, 4000), is_quick=False),
    Load(name="fan-1000-16", title="broadcast to 1,000, 16 in flight", options=broadcast(1000, 16)),
    Load(
        name="fan-1000-16-json",
        title="broadcast to 1,000, 16 in flight, json",
        options=broadcast(1000, 16, json=True),
        setup=JSON,
        is_quick=False,
    ),
    Load(name="echo-1-16", title="echo, 1 room, 16 in flight", options=echo(1, 16), is_quick=False),
    Load(
        name="rooms-1000x4",
        title="1,000 rooms of 4, one client sends in each, 1 in flight",
        options={"rooms": 1000, "clients": 4, "senders": 1, "concurrency": 32},
        quick={"rooms": 200},
        rounds=ROUNDS_JUDGED,
        peers=WITH_WORKERS,
        judged_peers=WITH_WORKERS,
    ),
    Load(
        name="tick",
        title="a backend ticking at 60 Hz to 200 clients",
        options={"clients": 200, "listen": True, "rate": 60, "seconds": 2.0},
        quick={"seconds": 0.6},
        setup=TICK,
        kind=Kind.LISTENING,
    ),
    Load(
        name="slow",
        title="broadcast to 100, 16 in flight, 4 kB, one client does not read",
        options={**broadcast(100, 16, 4000), "slow": 1},
        quick={"seconds": 1.0},
        kind=Kind.SLOW,
    ),
    Load(
        name="deflate",
        title="broadcast to 100, 16 in flight, compressed",
        options=broadcast(100, 16, deflate=True),
        setup=COMPRESSED,
        peers=("ours", "quart"),
    ),
    Load(
        name="tls",
        title="broadcast to 100, 16 in flight, TLS",
        options=broadcast(100, 16),
        setup=TLS,
        peers=(*WITH_TLS, "quart"),
        judged_peers=WITH_TLS,
    ),
    Load(
        name="tls-echo-50",
        title="echo, 50 rooms, 8 in flight, TLS",
        options=echo(50, 8),
        setup=TLS,
        peers=WITH_TLS,
        judged_peers=WITH_TLS,
    ),
    Load(
        name="tls-handshakes",
        title="handshakes, 1,000 clients of one room, 64 at a time, TLS",
        options={"clients": 1000, "concurrency": 64},
        quick={"clients": 300},
        setup=TLS,
        kind=Kind.ARRIVAL,
        peers=WITH_TLS,
        judged_peers=WITH_TLS,
    ),
)


def make_arguments(load: Load, *, is_quick: bool) -> list[str]:
    """Return the generator's command line for a load."""
    window = WINDOW_QUICK if is_quick else WINDOW
    options = {**window, **load.options, **(load.quick if is_quick else {})}
    argv: list[str] = []
    for name, value in options.items():
        if value is True:
            argv.append(f"--{name}")
        elif value is not False:
            argv += [f"--{name}", f"{value:g}"]
    return argv
