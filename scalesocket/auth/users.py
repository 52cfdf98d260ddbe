"""Users and passwords of `auth.users_file`, an htpasswd file with bcrypt hashes. Parsing is pure; hashing runs in threads."""

import asyncio
import os
import re
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

import anyio
import bcrypt

from scalesocket.auth.attempt import Attempt, Verdict
from scalesocket.auth.denial import BAD_CREDENTIAL, NOT_AVAILABLE, Denial
from scalesocket.auth.identity import Identity
from scalesocket.auth.tokens import LineError, check_name

MAX_COST: Final = 14
"""The highest cost of a hash; each step doubles the time, which is 1 s at 14."""
MAX_PASSWORD: Final = 72
"""Bytes of a password that bcrypt uses. htpasswd ignores the rest, as this module does."""
PARALLEL: Final = min(4, max(1, (os.cpu_count() or 1) - 1))
"""Passwords that are verified at the same time."""
MAX_WAITING: Final = 64
"""Further attempts that wait. Beyond that, attempts are refused as unavailable."""
TIMEOUT: Final = 15.0
"""Seconds for one attempt, the wait included."""

_BCRYPT: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)


class UserTable(NamedTuple):
    """The users of a file."""

    hashes: Mapping[str, bytes]
    """By name."""
    cost: int = 0
    """The highest cost of a hash; each attempt takes as long as this one."""
    is_mixed: bool = False
    """Whether there are hashes with lower costs."""


class PasswordHasher:
    """Verifies passwords in threads, a bounded number at a time. All apps share one."""

    def __init__(self, workers: int = 1) -> None:
        """`workers`: the processes that share PARALLEL and MAX_WAITING evenly; each has at least one of both."""
        self._parallel = max(1, PARALLEL // workers)
        self._most = self._parallel + max(1, MAX_WAITING // workers)
        self._slots = asyncio.Semaphore(self._parallel)
        self._attempts = 0
        self._threads: ThreadPoolExecutor | None = None

    async def verify(self, password: str, hashed: bytes, cost: int) -> bool | Denial:
        """Return whether a password has this hash, after the time that a hash with `cost` takes."""
        if self._attempts >= self._most:
            return NOT_AVAILABLE
        try:
            with anyio.fail_after(TIMEOUT):
                return await asyncio.shield(await self._start(password.encode()[:MAX_PASSWORD], hashed, cost))
        except TimeoutError:
            return NOT_AVAILABLE

    def close(self) -> None:
        """Let the threads end, without waiting for them."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def _start(self, password: bytes, hashed: bytes, cost: int) -> asyncio.Future[bool]:
        """Start a verification when it is its turn.

        A thread cannot be cancelled: it keeps its slot until it ends, also when no caller waits for the result.
        """
        with ExitStack() as held:
            self._attempts += 1
            held.callback(self._leave)
            await self._slots.acquire()
            held.callback(self._slots.release)
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self._parallel, thread_name_prefix="password")
            result = asyncio.get_running_loop().run_in_executor(self._threads, _check, password, hashed, cost)
            kept = held.pop_all()
        result.add_done_callback(lambda _: kept.close())
        return result

    def _leave(self) -> None:
        self._attempts -= 1


class UserVerifier:
    """Verifies users and passwords of one app (RFC 7617)."""

    def __init__(self, table: Callable[[], UserTable], hasher: PasswordHasher) -> None:
        """`table` returns the current users."""
        self._table = table
        self._hasher = hasher

    def verify(self, attempt: Attempt) -> Coroutine[Any, Any, Verdict] | None:
        """Decide by user and password."""
        basic = attempt.credentials.basic
        return None if basic is None else self._verify(*basic)

    async def _verify(self, user: str, password: str) -> Verdict:
        hashes, cost, _ = self._table()
        if not hashes:
            return BAD_CREDENTIAL
        # All attempts take as long, so that the time does not tell whether there is such a user.
        outcome = await self._hasher.verify(password, hashes.get(user) or _nobody(cost), cost)
        if isinstance(outcome, Denial):
            return outcome
        return Identity(user=user, method="basic") if outcome and user in hashes else BAD_CREDENTIAL


def _check(password: bytes, hashed: bytes, cost: int) -> bool:
    """Verify in the time of a hash with `cost`, which is twice that of the cost before: 2**5 is 2**3 + 2**3 + 2**4."""
    try:
        outcome = bcrypt.checkpw(password, hashed)
        for further in range(_cost_of(hashed), cost):
            bcrypt.checkpw(password, _nobody(further))
    except ValueError:  # a NUL in the password
        return False
    return outcome


def _cost_of(hashed: bytes) -> int:
    return int(hashed[4:6])


def _nobody(cost: int) -> bytes:
    """Return a hash with this cost that no known password has."""
    return b"$2b$%02d$%s" % (cost, b"." * 53)


def parse_users(text: str) -> UserTable:
    """Parse lines `USER:HASH` of an htpasswd file with bcrypt hashes. Raises LineError."""
    table: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, hashed = line.strip().partition(":")
        if not colon:
            raise LineError(f"line {number}: is not USER:HASH (htpasswd -B FILE USER)")
        check_name(number, name)
        match = _BCRYPT.fullmatch(hashed)
        if match is None:
            # Without the name: in a line whose parts are swapped, it is the hash or the password.
            raise LineError(f"line {number}: what follows the name is not a bcrypt hash (htpasswd -B FILE USER)")
        if int(match[1]) > MAX_COST:
            raise LineError(f"line {number}: the hash of {name!r} has a cost of {int(match[1])} (use at most {MAX_COST})")
        if name in table:
            raise LineError(f"line {number}: the user {name!r} is in the file twice (delete one of the lines)")
        table[name] = hashed.encode()
    costs = {_cost_of(hashed) for hashed in table.values()}
    return UserTable(table, max(costs, default=0), len(costs) > 1)
