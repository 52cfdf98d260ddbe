"""All workers of the supervisor. Owns the task of each, and what a new process of a worker is given.

To serve messages of the workers, append to `installs`; to ask them all, await `call_all`.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Literal, TypeVar

import anyio
import msgspec
import structlog

from scalesocket.auth.sources import Contents
from scalesocket.config.certificates import Pair
from scalesocket.config.model import App, Site
from scalesocket.errors import ScalesocketError
from scalesocket.placement.inbox import describe_shortage, make_inbox
from scalesocket.placement.rendezvous import KEY_SIZE, Rendezvous
from scalesocket.server.addresses import Address
from scalesocket.shared_memory.memory import SharedMemory
from scalesocket.workers.leftovers import Leftovers
from scalesocket.workers.link import CALL_TIMEOUT, Handlers, LinkError, LinkLostError
from scalesocket.workers.messages import DrainWorker
from scalesocket.workers.setup import LIMITS, Setup
from scalesocket.workers.slot import END_TIMEOUT, Install, Worker

log = structlog.get_logger("workers")

MAX_FAILED_STARTS: Final = 5
"""Starts of each worker within a minute that may fail while no worker serves; then the server ends."""


Result = TypeVar("Result")


class WorkersError(ScalesocketError):
    """The workers cannot be started."""


class Workers:
    """The workers, by index. `async with open_workers(…)` makes them."""

    def __init__(self, site: Site, *, count: int, loop: Literal["uvloop", "asyncio"], open_files: int) -> None:
        self._site = site
        self._drained: dict[str, App] = {}
        self.on_site: list[Callable[[Site], object]] = []
        """Called with each edited site."""
        self.is_draining = False
        """Whether an operator has drained the site, so that new processes admit no clients."""
        self.generation = 1
        """Of the site in force."""
        self.listeners: Sequence[tuple[Address, socket.socket]] = ()
        """The listening sockets in force."""
        self.pair: Pair | None = None
        """The certificate and the key in force."""
        self.auth_files: Contents = {}
        """The contents of the files of `auth` in force."""
        self._memory = SharedMemory.create(count)
        self.shared: dict[str, int] = {LIMITS: self._memory.fd}
        """Descriptors that every worker gets, by what they are (`Setup.shared`)."""
        self.installs: list[Install] = []
        """Add handlers to the link of each worker's process. Append before the first process starts."""
        self.failed = anyio.Event()
        """Set when no worker serves, and none can be started."""
        self.starts_at_once = len(os.sched_getaffinity(0)) + 1
        """Workers that may start at the same time when the server does."""
        self._is_started = False
        self._start_failed = anyio.Event()
        self._start_error = ""
        self._ended = anyio.Event()
        self.inboxes = tuple(make_inbox() for _ in range(count))
        """The end of each worker's inbox that others send on, and the one that it reads."""
        self._key = os.urandom(KEY_SIZE)
        self.rendezvous = Rendezvous(count, self._key)
        """Knows which worker owns a room."""
        self._loop: Literal["uvloop", "asyncio"] = loop
        self._open_files = open_files
        self.leftovers = Leftovers(is_worker=lambda pid: any(worker.pid == pid for worker in self.members))
        self.members = tuple(
            Worker(index, make_setup=self._make_setup, leftovers=self.leftovers, install=self._install) for index in range(count)
        )

    @property
    def site(self) -> Site:
        """The site in force, which a new process serves."""
        return self._site

    @site.setter
    def site(self, site: Site) -> None:
        """Note an edit. Apps that it changes are no longer drained."""
        self._site = site
        self._drained = {name: app for name, app in self._drained.items() if site.apps.get(name) == app}
        for call in self.on_site:
            call(site)

    @property
    def drained(self) -> Sequence[str]:
        """The apps that an operator has drained."""
        return tuple(self._drained)

    def note_drained(self, app: str) -> None:
        """Have new processes start with this app drained, until an edit of it."""
        if app in self._site.apps:
            self._drained[app] = self._site.apps[app]

    def forget_drained(self, app: str) -> None:
        """Undo `note_drained`."""
        self._drained.pop(app, None)

    @property
    def is_any_ready(self) -> bool:
        """Whether at least one worker serves."""
        return any(worker.is_ready for worker in self.members)

    @property
    def is_starting(self) -> bool:
        """Whether the first process of some worker does not serve yet, or no worker serves at the moment."""
        return not (self.is_any_ready and all(worker.has_served for worker in self.members))

    async def wait_ready(self) -> None:
        """Wait until all workers accept connections. Raises WorkersError when one of them fails before."""

        async def wait_all() -> None:
            for worker in self.members:
                await worker.ready.wait()
            self._is_started = True
            tasks.cancel_scope.cancel()

        async def wait_failed() -> None:
            await self._start_failed.wait()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_all)
            tasks.start_soon(wait_failed)
        if not self._is_started:
            for worker in self.members:
                worker.retire()
            raise WorkersError(self._start_error)

    async def call_all(
        self, message: msgspec.Struct, result: type[Result], *, timeout: float | None = CALL_TIMEOUT
    ) -> list[Result | LinkError]:
        """Call every worker at once. Return their answers by index; for one that does not serve, or fails, the error."""

        async def call(worker: Worker) -> Result | LinkError:
            if worker.link is None:
                return LinkLostError(f"{worker.name} is not running")
            try:
                return await worker.link.call(message, result, timeout=timeout)
            except LinkError as error:
                return error

        return list(await asyncio.gather(*map(call, self.members)))

    async def drain(self) -> None:
        """Close all clients gradually and end all rooms, in every worker. The workers go on running, and none is replaced."""
        for worker in self.members:
            worker.retire()
        await self.call_all(DrainWorker(), type(None), timeout=None)  # pings end the wait for a worker that is stuck

    async def stop(self, *, is_forced: bool = False) -> None:
        """End all workers and everything that they have started. `is_forced`: cut all connections at once."""
        for worker in self.members:
            worker.stop(is_forced=is_forced)
        with anyio.move_on_after(END_TIMEOUT):
            await self._ended.wait()
        for worker in self.members:
            if worker.pid is not None:
                log.error("worker killed", worker=worker.index, pid=worker.pid, after=END_TIMEOUT, hint="it did not end")
                worker.kill()
        await self._ended.wait()
        await self.leftovers.wait_ended()

    async def run(self) -> None:
        """Run the workers until they are stopped. At first a few start at a time: more would slow each other down."""
        async with anyio.create_task_group() as tasks:
            for worker in self.members:
                if worker.index >= self.starts_at_once:
                    await self.members[worker.index - self.starts_at_once].settled.wait()
                tasks.start_soon(worker.run, self._note_failed_start, name=worker.name)
        self._ended.set()

    def close(self) -> None:
        """Close the inboxes and the shared memory."""
        for ends in self.inboxes:
            for end in ends:
                end.close()
        self._memory.close()

    def _note_failed_start(self, worker: Worker) -> None:
        if not self._is_started:
            self._start_error = f"{worker.name}: {worker.failure or 'it was not started (see the log)'}"
            self._start_failed.set()
        elif not self.is_any_ready and all(each.backoff.recent >= MAX_FAILED_STARTS for each in self.members):
            self.failed.set()

    def _install(self, worker: Worker, handlers: Handlers) -> None:
        for install in self.installs:
            install(worker, handlers)

    def _make_setup(self, index: int) -> Setup:
        self._memory.clear_worker(index)  # what a predecessor has counted: all of its processes have ended
        return Setup(
            index=index,
            count=len(self.members),
            key=self._key,
            supervisor=os.getpid(),
            site=self.site,
            generation=self.generation,
            loop=self._loop,
            open_files=self._open_files,
            link=-1,  # made with the process
            listeners=tuple((address, sock.fileno()) for address, sock in self.listeners),
            pair=self.pair,
            auth_files=self.auth_files,
            inbox=self.inboxes[index][1].fileno(),
            outboxes=tuple(sending.fileno() for sending, _ in self.inboxes),
            drained=self.drained,
            is_draining=self.is_draining,
            shared=self.shared,
        )


@asynccontextmanager
async def open_workers(site: Site, *, count: int, loop: Literal["uvloop", "asyncio"], open_files: int) -> AsyncIterator[Workers]:
    """Make the workers; the caller runs them. Processes that they leave behind are killed at the end. Raises WorkersError and
    SharedMemoryError.

    `open_files`: the soft limit of open files for their programs.
    """
    try:
        workers = Workers(site, count=count, loop=loop, open_files=open_files)
    except OSError as error:
        raise WorkersError(f"server.workers: cannot open what {count} workers need ({describe_shortage(error)})") from error
    try:
        yield workers
    finally:
        for worker in workers.members:
            worker.kill()
        with anyio.CancelScope(shield=True):
            await workers.leftovers.wait_ended()
        workers.close()
