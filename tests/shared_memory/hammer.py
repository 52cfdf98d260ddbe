"""A program that is one of several workers: `python -m tests.shared_memory.hammer FD WORKER SCENE`. FD: of the shared memory.

It prints a line when it is ready, starts when it gets one, and prints its result as JSON.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from scalesocket.auth.turns import Turns
from scalesocket.backends.ports import Ports
from scalesocket.config.model import ConnectRate, Failures, RoomRate
from scalesocket.errors import BackendError
from scalesocket.shared_memory.capacity import SharedCapacity
from scalesocket.shared_memory.layout import COLUMNS_AT
from scalesocket.shared_memory.locks import Locks
from scalesocket.shared_memory.memory import SharedMemory

LIMIT: Final = 37
ROUNDS: Final = 3000
PEERS: Final = [(f"192.0.2.{number}", 1) for number in range(3)]
RATE: Final = 1e-6
"""Tokens a second: none comes while the test runs."""
PORTS: Final = (31_000, 31_039)
"""Below the ports that the kernel gives to connections."""
SECONDS: Final = 0.5
MANY: Final = 20_000
"""A limit for what is quick."""


def hold(take: Callable[[], bool], release: Callable[[], None]) -> list[tuple[int, int]]:
    """Take and release at random; return the times from when to when each place was held for certain."""
    held: list[int] = []
    spans = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if random.random() < 0.6:
            if take():
                held.append(time.monotonic_ns())
        elif held:
            spans.append((held.pop(), time.monotonic_ns()))
            release()
    while held:
        spans.append((held.pop(), time.monotonic_ns()))
        release()
    return spans


def fill(take: Callable[[], bool]) -> int:
    """Take as many as there are; return how many."""
    taken = refused = 0
    while refused < 200:
        if take():
            taken, refused = taken + 1, 0
        else:
            refused += 1
            time.sleep(0.0005)  # one that met another may try again
    return taken


def places(capacity: SharedCapacity) -> Any:
    """The ways to count against a limit, one after the other."""
    app = capacity.open_app("chat")
    result = {}
    for name, one in {"server": capacity.connections, "app": app.connections, "rooms": app.rooms}.items():
        spans = hold(lambda one=one: one.take(LIMIT), one.release)  # type: ignore[misc]
        result[name] = {"spans": spans, "filled": fill(lambda one=one: one.take(LIMIT))}  # type: ignore[misc]
    return result


def addresses(capacity: SharedCapacity) -> Any:
    result = {}
    for peer in PEERS:
        spans = hold(
            lambda peer=peer: capacity.addresses.take(peer, LIMIT),  # type: ignore[misc]
            lambda peer=peer: capacity.addresses.release(peer),  # type: ignore[misc]
        )
        result[peer[0]] = {"spans": spans, "filled": fill(lambda peer=peer: capacity.addresses.take(peer, LIMIT))}  # type: ignore[misc]
    return result


def rates(capacity: SharedCapacity) -> Any:
    """Count the tokens that are taken, and the failures that are allowed."""
    upgrades, rooms = ConnectRate(per_ip=RATE, burst=MANY), RoomRate(per_ip=RATE, total=RATE, burst=MANY)
    app, failed, failures = capacity.open_app("chat"), capacity.failed("chat"), Failures(limit=MANY, per="24h")
    ann, bob = PEERS[:2]

    def fail() -> bool:
        return failed.wait(ann, failures, time.monotonic()) == 0.0 and failed.add(ann, failures, time.monotonic())

    return {
        "upgrades": fill(lambda: capacity.addresses.take_token(ann, upgrades, time.monotonic()) == 0.0),
        "rooms": fill(lambda: app.openings.take(random.choice((ann, bob)), rooms, time.monotonic())),
        "failures": fill(fail),
    }


def turns(capacity: SharedCapacity) -> Any:
    """Decide attempts that all fail: never more at once than may still fail. Return how many were decided."""
    limits, peer = Failures(limit=LIMIT, per="24h"), PEERS[0]
    own = Turns(capacity.failed("chat"), capacity.deciding("chat"))

    def attempt() -> bool:
        if own.refusal(peer, limits) is not None or not own._begin(peer[0], limits):
            return False
        own.failures.add(peer, limits, time.monotonic())
        own.leave(peer, limits)
        return True

    return fill(attempt)


def unique(capacity: SharedCapacity) -> Any:
    """Take ids, and all ports of a range."""
    ports, taken = Ports(capacity.ports), []
    ids = [next(capacity.client_ids) for _ in range(ROUNDS)]
    for _ in range(200):
        try:
            taken.append(ports.take(*PORTS))
        except BackendError:
            time.sleep(0.001)
    return {"ids": ids, "ports": taken}


def lock(memory: SharedMemory) -> None:
    """Hold the lock of the server's connections until this process is killed."""
    assert Locks(memory.fd).acquire(COLUMNS_AT)
    print("locked", flush=True)
    sys.stdin.read()


def main() -> None:
    fd, worker, scene = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    memory = SharedMemory.open(fd)
    os.close(fd)
    capacity = SharedCapacity(memory, worker)
    if scene == "lock":
        lock(memory)
        return
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(globals()[scene](capacity)), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
