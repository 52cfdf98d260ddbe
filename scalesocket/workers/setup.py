"""What a worker is given when it starts: pickled by the supervisor into a file in memory, the worker's standard input."""

import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from scalesocket.auth.sources import Contents
from scalesocket.config.certificates import Pair
from scalesocket.config.model import Site
from scalesocket.server.addresses import Address

LIMITS: Final = "limits"
"""The name, in `Setup.shared`, of the memory in which limits are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The start of one worker. The descriptors are inherited; the worker owns them."""

    index: int
    """The number of the worker, from 0. Its successor has the same."""
    count: int
    """The number of workers."""
    key: bytes
    """Random; the same for all workers from the start of the server to its end, and known to nobody else."""
    supervisor: int
    """The pid of the supervisor."""
    site: Site
    generation: int
    """Of the site."""
    loop: Literal["uvloop", "asyncio"]
    open_files: int
    """The soft limit of open files with which the server was started: programs get it."""
    link: int
    """This end of the link, a stream."""
    listeners: Sequence[tuple[Address, int]]
    """The listening sockets."""
    pair: Pair | None
    """The certificate and the key in force. Their files may have changed since, and may be wrong by now."""
    auth_files: Contents
    """Of the files of `auth`, likewise."""
    inbox: int
    """The end of the worker's inbox that it reads."""
    outboxes: Sequence[int]
    """The ends of all inboxes that others send on, by worker."""
    drained: Sequence[str] = ()
    """Apps that an operator has drained."""
    is_draining: bool = False
    """Whether the site is."""
    shared: Mapping[str, int] = field(default_factory=dict)
    """Descriptors that all workers share, by what they are."""

    @property
    def descriptors(self) -> Sequence[int]:
        """All of them."""
        listeners = (fd for _, fd in self.listeners)
        return (self.link, self.inbox, *self.outboxes, *listeners, *self.shared.values())


def write_setup(setup: Setup) -> int:
    """Return a descriptor from which `read_setup` reads. A file in memory takes all of it, however large the site is."""
    fd = os.memfd_create("scalesocket-setup", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        pickle.dump(setup, file, protocol=pickle.HIGHEST_PROTOCOL)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def read_setup(fd: int) -> Setup:
    """Read it; `fd` then leads to the null device. No child of this process inherits the descriptors in it."""
    with os.fdopen(os.dup(fd), "rb") as file:
        setup: Setup = pickle.load(file)  # written by the parent process
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, fd, inheritable=True)
    os.close(null)
    for inherited in setup.descriptors:
        os.set_inheritable(inherited, False)
    return setup
