"""The messages between supervisor and workers about edits of the site file.

A new site and its listening sockets come to a worker's inbox, as descriptors. `PrepareEdit` says how many there are.
"""

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from scalesocket.auth.sources import Contents
from scalesocket.config.certificates import Pair
from scalesocket.config.model import Site
from scalesocket.server.addresses import Address

EDIT: Final = "edit"
"""The name of a delivery that belongs to an edit; its details are an `EditPart`."""
LATE: Final = "late connection"
"""The name of a delivery of a connection that was accepted at an address which an edit has removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A site to be put in force, with what else a process needs that serves it."""

    number: int
    """Rises with each attempt to put a site in force, in the life of the server."""
    generation: int
    site: Site
    pair: Pair | None
    auth_files: Contents
    addresses: Sequence[Address]
    """Of all listening sockets, which are the further parts, in this order."""


class EditPart(msgspec.Struct, frozen=True, array_like=True):
    """What a descriptor is: the part 0 of an edit is a file with the pickled `Edit`."""

    number: int
    part: int


class PrepareEdit(msgspec.Struct, frozen=True):
    """To a worker: open what the edit needs. The answer is an error, or None: from then on nothing can fail."""

    number: int
    parts: int


class CommitEdit(msgspec.Struct, frozen=True):
    """To a worker: apply the edit that was prepared."""

    number: int


class RollBackEdit(msgspec.Struct, frozen=True):
    """To a worker: forget the edit, whether or not it is prepared."""

    number: int


class FindAffected(msgspec.Struct, frozen=True):
    """To a worker: the answer is the AffectedKey of each change to a site, with the worker's own rooms and clients."""

    site: bytes
    """Pickled."""


class RestartApp(msgspec.Struct, frozen=True):
    """To a worker: close its rooms of an app gradually with 1012. The answer is their number."""

    app: str


def write_edit(edit: Edit) -> int:
    """Return the descriptor of a file in memory with an edit, for any number of readers."""
    fd = os.memfd_create("scalesocket-edit", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        pickle.dump(edit, file, protocol=pickle.HIGHEST_PROTOCOL)
    return fd


def read_edit(fd: int) -> Edit:
    """Read the edit in a file, and close the descriptor. Other processes may read at the same time."""
    try:
        text = os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)
    edit: Edit = pickle.loads(text)  # written by the supervisor
    return edit
