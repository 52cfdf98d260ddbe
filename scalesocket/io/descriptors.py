"""Descriptors that are kept back from clients and rooms, so that probes and operators are served when all others are in use.

The kernel gives out the lowest free number. A new descriptor in the reserve therefore means that all below it are in use, and no
count is needed. The reserve is the top of what the limit of open files allows:

    below the reserve      websockets, programs, connections
    its lower part         connections that send one plain request, such as /health
    its upper part         the control socket, the admin listener, files that a reload reads; nothing that a client can hold
"""

import os
import resource
import sys
from typing import Final

RESERVE: Final = 64
"""Descriptors that are kept back; an eighth of all if the limit is low."""
PRIVATE: Final = 16
"""The part of them that no client can hold; a 32nd of all if the limit is low."""


def first_reserved() -> int:
    """Return the lowest descriptor of the reserve, by the limit in force."""
    limit = _limit()
    return limit - min(RESERVE, limit // 8)


def first_private() -> int:
    """Return the lowest descriptor of its upper part."""
    limit = _limit()
    return limit - min(PRIVATE, limit // 32)


def first_last() -> int:
    """Return the lowest descriptor that the admin listener leaves to the control socket and to reloads."""
    limit = _limit()
    return limit - min(PRIVATE, limit // 32) // 2


def are_free(count: int) -> bool:
    """Return whether so many descriptors may be taken without the reserve. Takes 3 us.

    If descriptors of lower numbers were closed meanwhile, fewer may be free: a caller that gets one in the reserve must close it.
    """
    try:
        lowest = os.open("/", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    os.close(lowest)
    return lowest + count <= first_reserved()


def _limit() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
