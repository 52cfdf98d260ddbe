"""Machines on this machine: network namespaces, each with a link for the engine, one for other nodes, and one for clients."""

import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

LINKS: Final = ("engine", "peers", "clients")
"""What the links of a machine are for. Each kind has a bridge and a network of its own, so that it can fail alone."""
_SERIAL: Final = itertools.count()


class Machines:
    """Some network namespaces, which this process reaches at `address(number, "clients")`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._tag = f"{os.getpid():x}{next(_SERIAL)}"[-6:]
        self._net, self._reservation = reserve_net()

    def address(self, number: int, link: str) -> str:
        """The address of a machine on one of its links; number 0 is this process."""
        return f"10.{self._net}.{LINKS.index(link)}.{number + 1}"

    def enter(self, number: int) -> Sequence[str]:
        """The command that runs its arguments on a machine, from 1."""
        return ("ip", "netns", "exec", f"m{self._tag}-{number}")

    def set_link(self, number: int, link: str, *, is_up: bool) -> None:
        """Cut or restore a link of a machine."""
        run("ip", "link", "set", self._outer(number, link), "up" if is_up else "down")

    def restore(self) -> None:
        """Restore all links."""
        for number in range(1, self.count + 1):
            for link in LINKS:
                self.set_link(number, link, is_up=True)

    def _outer(self, number: int, link: str) -> str:
        return f"v{self._tag}{link[0]}{number}"

    def _bridge(self, link: str) -> str:
        return f"b{self._tag}{link[0]}"

    @contextmanager
    def open(self) -> Iterator[None]:
        """Make all of them, and remove them at the end."""
        with self._reservation, ExitStack() as stack:
            for link in LINKS:
                run("ip", "link", "add", self._bridge(link), "type", "bridge")
                stack.callback(run, "ip", "link", "del", self._bridge(link))
                run("ip", "addr", "add", f"{self.address(0, link)}/24", "dev", self._bridge(link))
                run("ip", "link", "set", self._bridge(link), "up")
            for number in range(1, self.count + 1):
                name = self.enter(number)[-1]
                run("ip", "netns", "add", name)
                stack.callback(run, "ip", "netns", "del", name)
                run("ip", "-n", name, "link", "set", "lo", "up")
                for link in LINKS:
                    outer = self._outer(number, link)
                    run("ip", "link", "add", outer, "type", "veth", "peer", "name", link, "netns", name)
                    run("ip", "link", "set", outer, "master", self._bridge(link), "up")
                    run("ip", "-n", name, "addr", "add", f"{self.address(number, link)}/24", "dev", link)
                    run("ip", "-n", name, "link", "set", link, "up")
            yield


def reserve_net() -> tuple[int, socket.socket]:
    """Choose N so that this machine has no route into 10.N.0.0/16.

    No other process of tests gets the same until the socket is closed.
    """
    routes = Path("/proc/net/route").read_text().splitlines()[1:]
    used = {bytes.fromhex(line.split()[1])[::-1][:2] for line in routes}
    for net in range(64, 250):
        if bytes((10, net)) in used:
            continue
        reservation = socket.socket(socket.AF_UNIX)
        with suppress(OSError):
            reservation.bind(f"\0scalesocket-tests-net-{net}")
            return net, reservation
        reservation.close()
    raise AssertionError("no network is free")


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True, timeout=10)


@contextmanager
def open_machines(count: int) -> Iterator[Machines]:
    """Make machines; skip the test where that is not possible."""
    if shutil.which("ip") is None:
        pytest.skip("no ip command for network namespaces (Debian: apt-get install iproute2)")
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    probe = Machines(0)
    try:
        with probe.open():
            run("ip", "netns", "add", f"probe-{os.getpid()}")
            run("ip", "netns", "del", f"probe-{os.getpid()}")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)}")
    machines = Machines(count)
    with machines.open():
        yield machines
