"""One worker of the supervisor: its process, the link to it, its heartbeat, and the process that follows when it ends.

Its task is started by `workers.py`.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import anyio
import structlog

from scalesocket.placement.inbox import describe_shortage
from scalesocket.workers.backoff import Backoff
from scalesocket.workers.leftovers import Leftovers
from scalesocket.workers.link import Handlers, Link, LinkError, open_link
from scalesocket.workers.messages import Ping, StopWorker, WorkerFailed, WorkerReady
from scalesocket.workers.process import WorkerProcess, describe_end
from scalesocket.workers.setup import Setup

log = structlog.get_logger("workers")

START_TIMEOUT: Final = 30.0
"""Seconds in which a worker must be ready."""
PING_INTERVAL: Final = 1.0
"""Seconds between two pings."""
ANSWER_TIMEOUT: Final = 10.0
"""Seconds without an answer after which a worker is killed and replaced."""
END_TIMEOUT: Final = 5.0
"""Seconds in which a worker that stops, or whose link is lost, must end; then it is killed."""

Install = Callable[["Worker", Handlers], None]
"""Adds handlers for the messages of a worker to its link. Called for each process."""


class Worker:
    """One of the workers. Its index stays when its process is replaced."""

    def __init__(self, index: int, *, make_setup: Callable[[int], Setup], leftovers: Leftovers, install: Install) -> None:
        self.index = index
        self.restarts = 0
        """Processes that have followed the first."""
        self.process: WorkerProcess | None = None
        """None between two processes."""
        self.link: Link | None = None
        """To the process, once it is ready; None before, and after its end."""
        self.ready = anyio.Event()
        """Set while the process accepts connections; another event for each process."""
        self.generation = 0
        """Of the site that the process serves, or was sent last."""
        self.silent = 0.0
        """Seconds without an answer to a ping."""
        self.has_served = False
        """Whether a process has been ready, be it this one or one before."""
        self.settled = anyio.Event()
        """Set when its first process is ready, or no process follows."""
        self.since: float | None = None
        """Unix time since when the process serves; None before."""
        self.on_ready: list[Callable[[Worker], None]] = []
        """Called when a process accepts connections."""
        self.failure: str | None = None
        """Why the last process could not start."""
        self.backoff = Backoff()
        self._stopping = anyio.Event()
        self._make_setup = make_setup
        self._leftovers = leftovers
        self._install = install

    @property
    def name(self) -> str:
        """As the log and errors call it."""
        return f"worker {self.index}"

    @property
    def pid(self) -> int | None:
        """The process; None between two."""
        return None if self.process is None else self.process.pid

    @property
    def is_stopping(self) -> bool:
        """Whether no process follows."""
        return self._stopping.is_set()

    @property
    def is_ready(self) -> bool:
        """Whether it serves."""
        return self.link is not None

    async def run(self, on_failed_start: Callable[["Worker"], None]) -> None:
        """Run one process after another until `stop`. `on_failed_start` is called when one has ended before it was ready."""
        loop = asyncio.get_running_loop()
        while not self.is_stopping:
            try:
                was_ready = await self._run_process()
            except Exception:  # a bug, which must not end the other workers
                log.exception("watching a worker failed", worker=self.index)
                was_ready = False
            if self.is_stopping:
                return
            self.ready = anyio.Event()
            delay = self.backoff.next_delay(loop.time())
            if not was_ready:
                on_failed_start(self)
            with anyio.move_on_after(delay):
                await self._stopping.wait()
            await self._leftovers.wait_ended()
            if not self.is_stopping:
                self.restarts += 1

    def retire(self) -> None:
        """Let no process follow this one, which goes on if it serves already. Calls may repeat."""
        self._stopping.set()
        self.settled.set()
        if self.process is not None and not self.is_ready:
            self.process.kill()

    def stop(self, *, is_forced: bool = False) -> None:
        """End the process, and start no other. `is_forced`: cut everything first. Calls may repeat."""
        self.retire()
        if self.link is not None:
            self.link.notify(StopWorker(is_forced))

    def kill(self) -> None:
        """Send the process SIGKILL."""
        if self.process is not None:
            self.process.kill()

    async def _run_process(self) -> bool:
        """Run a process until it has ended; return whether it was ready."""
        self.failure = None
        try:
            setup = self._make_setup(self.index)
            self.generation, self.silent = setup.generation, 0.0
            process = self.process = WorkerProcess(setup)
        except OSError as error:
            self.failure = f"it was not started ({describe_shortage(error)})"
            log.error("worker not started", worker=self.index, error=describe_shortage(error))
            return False
        was_ready = False
        try:
            handlers = Handlers()
            handlers.add(WorkerReady, lambda _: self._note_ready(link))
            handlers.add(WorkerFailed, self._note_failed)
            self._install(self, handlers)
            async with open_link(process.link, handlers, peer=self.name) as link:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watch_start, process, name=f"start of {self.name}")
                    tasks.start_soon(self._ping, process, link, name=f"pings of {self.name}")
                    await asyncio.wait((link.lost, process.ended), return_when=asyncio.FIRST_COMPLETED)
                    tasks.cancel_scope.cancel()
                was_ready = self.is_ready
                self.link = None
            with anyio.move_on_after(END_TIMEOUT):
                await asyncio.shield(process.ended)
            process.kill()
            await asyncio.shield(process.ended)
            if not was_ready and self.failure is None:
                self.failure = f"it ended before it was ready ({describe_end(process.code)}; see the log)"
        finally:
            self.link = self.since = None
            process.close()
            self.process = None
        if not self.is_stopping:
            level = log.info if process.code == 0 else log.error
            hint = "another process is started" if self.has_served else "the server does not start"
            level("worker ended", worker=self.index, pid=process.pid, end=describe_end(process.code), hint=hint)
        return was_ready

    def _note_ready(self, link: Link) -> None:
        self.link = link
        self.failure = None
        self.has_served = True
        self.settled.set()
        self.since = time.time()
        self.ready.set()
        if self.restarts:
            log.info("worker ready", worker=self.index, pid=self.pid, restarts=self.restarts)
        for call in self.on_ready:
            call(self)

    def _note_failed(self, message: WorkerFailed) -> None:
        self.failure = message.reason
        log.error("worker cannot start", worker=self.index, error=message.reason)

    async def _watch_start(self, process: WorkerProcess) -> None:
        with anyio.move_on_after(START_TIMEOUT):
            await self.ready.wait()
            return
        self.failure = f"it was not ready within {START_TIMEOUT:.0f} s"
        log.error("worker not ready", worker=self.index, pid=process.pid, after=START_TIMEOUT, hint="it is killed and replaced")
        process.kill()

    async def _ping(self, process: WorkerProcess, link: Link) -> None:
        """Kill a process whose event loop is stuck. Time in which this process did not run itself does not count."""
        await self.ready.wait()
        loop = asyncio.get_running_loop()
        while self.silent < ANSWER_TIMEOUT:
            asked_at = loop.time()
            is_answered = await _is_answered(link)
            await anyio.sleep(max(0.0, asked_at + PING_INTERVAL - loop.time()))
            self.silent = 0.0 if is_answered else self.silent + min(loop.time() - asked_at, 2 * PING_INTERVAL)
        log.error(
            "worker not answering", worker=self.index, pid=process.pid, after=ANSWER_TIMEOUT, hint="it is killed and replaced"
        )
        process.kill()


async def _is_answered(link: Link) -> bool:
    """Return whether a ping is answered within PING_INTERVAL. A later answer does not count; the next ping follows."""
    try:
        await link.call(Ping(), type(None), timeout=PING_INTERVAL)
    except LinkError:
        return False
    return True
