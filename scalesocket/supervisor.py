"""The top of the task tree: spawner, loop, gateway, lanes, listeners, signals, and the way down."""

import asyncio
import fcntl
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import anyio
import structlog
from anyio.abc import TaskStatus

from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.config.model import Site
from scalesocket.config.plan import Plan
from scalesocket.hangup import Hangups
from scalesocket.reload.open import open_reloader
from scalesocket.reload.overrides import NO_OVERRIDES, Overrides
from scalesocket.reload.prepared import Prepared
from scalesocket.reload.reloader import Reloader
from scalesocket.server.known_versions import warn_of_unknown_versions
from scalesocket.server.service import Service, open_service
from scalesocket.systemd import notify_ready, notify_stopping, take_listen_fds

log = structlog.get_logger("server")

OTHER_FILES: Final = 64
"""Open files beside those of connections and backends."""

FILES_AT_START: Final = 32_768
"""Descriptors the kernel's table has room for from the start: 256 KiB of its memory."""
SWITCH_INTERVAL: Final = 0.0005
"""Seconds."""
COLLECT: Final = (2_000, 50, 100)
"""Thresholds of the garbage collector: a young collection takes 0.5 ms, a full one 20 ms for 9,000 clients."""

Announce = Callable[[Sequence[str], Site], None]
"""Told once where the server listens: addresses with the ports found, and the site."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run, beside the site."""

    loop: Literal["uvloop", "asyncio"] = "uvloop"
    is_oneshot: bool = False
    """End, with 0, when the first room has ended: the bare command line's `--oneshot`."""
    is_watching: bool = True
    """Apply edits of the site file when they are made; else on SIGHUP and `scalesocket reload` alone."""
    overrides: Overrides = NO_OVERRIDES
    """What the command line says over the site file; in force in `site` already."""


class Stop:
    """Whether the server is to stop: asked once, gracefully; twice, at once."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.over = anyio.Event()
        """Set when the server has drained, or is to end without."""
        self.is_forced = False

    def ask(self, why: str) -> None:
        """Stop; if asked before, force it."""
        if self.asked.is_set():
            log.warning("stopping at once", why=why)
            self.is_forced = True
            self.over.set()
        else:
            log.info("stopping", why=why, **({"hint": "once more to stop at once"} if why == "SIGINT" else {}))
            self.asked.set()


def serve(site: Site, *, announce: Announce, options: Options = Options()) -> int:
    """Run a site until a signal ends it; return the exit code: 0, or 1 when it was forced or failed."""
    hangups = Hangups()  # before there are threads
    take_listen_fds()  # before there are children, who must not inherit the sockets nor their variables
    spawner = SpawnerClient()
    spawner.start()  # before the limit is raised, which children must not inherit, and before the loop and its threads
    raise_open_files(site)
    warn_of_unknown_versions()
    try:
        backend_options = {"use_uvloop": options.loop == "uvloop"}
        return anyio.run(partial(_serve, site, spawner, hangups, announce, options), backend_options=backend_options)
    finally:
        spawner.close()


async def _serve(site: Site, spawner: SpawnerClient, hangups: Hangups, announce: Announce, options: Options) -> int:
    async with (
        open_service(site, spawner=spawner) as service,
        open_reloader(
            service.gateway,
            prepare=[partial(_prepare_listeners, service)],
            overrides=options.overrides,
            is_watching=options.is_watching,
        ) as reloader,
        anyio.create_task_group() as tasks,
    ):
        stop = Stop()
        await tasks.start(_watch_signals, stop, name="signals")  # before anyone is told that we are there
        _watch_hangups(hangups, stop, reloader)
        if options.is_oneshot:
            tasks.start_soon(_watch_oneshot, service, stop, name="oneshot")
        favour_loop()
        announce(service.listeners.addresses, site)
        notify_ready()
        await stop.asked.wait()
        notify_stopping()
        tasks.start_soon(_drain, service, stop, name="drain")
        await stop.over.wait()
        tasks.cancel_scope.cancel()
        if stop.is_forced:
            service.cut()
            spawner.close()  # which kills every group it knows
    return int(stop.is_forced)


async def _drain(service: Service, stop: Stop) -> None:
    await service.drain()
    log.info("stopped")
    stop.over.set()


async def _prepare_listeners(service: Service, site: Site, _: Plan) -> Prepared:
    return await service.listeners.prepare(site.server)


async def _watch_signals(stop: Stop, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            stop.ask(signal.Signals(number).name)


def _watch_hangups(hangups: Hangups, stop: Stop, reloader: Reloader | None) -> None:
    """Reload on SIGHUP; stop if the terminal hung up, or if there is no site file to reload."""
    loop = asyncio.get_running_loop()

    def handle(is_hangup: bool) -> None:
        if not is_hangup and reloader is not None:
            reloader.request("SIGHUP")
        elif not stop.asked.is_set():  # the kernel and the shell may both send it: a second one does not force the end
            stop.ask("the terminal hung up" if is_hangup else "SIGHUP")

    def report(is_hangup: bool) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            loop.call_soon_threadsafe(handle, is_hangup)

    hangups.watch(report)


async def _watch_oneshot(service: Service, stop: Stop) -> None:
    await service.gateway.room_ended.wait()
    if not stop.asked.is_set():  # else it ended because the server does, and is no second signal
        stop.ask("oneshot")


def favour_loop() -> None:
    """Let the loop wait less for the garbage collector, and for threads that read a site file or write metrics.

    Clients and rooms that are gone are freed by their counts, not by the collector. A thread gives the interpreter back
    to the loop after 0.5 ms, not after Python's 5 ms: those were stalls of 10 ms whenever an edit was read.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()  # what lives as long as the server is never looked at again
    gc.set_threshold(*COLLECT)


def raise_open_files(site: Site) -> None:
    """Raise the soft limit of open files to the hard one, and warn when it can't hold `max_connections`.

    The kernel's table of descriptors is grown now, while there is one thread. Later each doubling would wait for an RCU
    grace period: stalls of 10 to 15 ms, measured at the 256th and the 512th descriptor.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = (site.server.max_connections or 0) + OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning("few open files", limit=hard, wanted=wanted, hint="raise the hard limit, as with LimitNOFILE= or ulimit -Hn")
    highest = FILES_AT_START if hard == resource.RLIM_INFINITY else min(hard, FILES_AT_START)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(fcntl.fcntl(lowest_free, fcntl.F_DUPFD_CLOEXEC, highest - 1))
    os.close(lowest_free)
