"""The top of the task tree: starts spawner, event loop, gateway and listeners, handles signals, shuts down."""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import anyio
import structlog

from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.config.model import Site
from scalesocket.config.plan import Plan
from scalesocket.open_files import check_open_files, count_open_files, count_start_files, raise_open_files, warn_of_few_files
from scalesocket.reload.open import open_reloader
from scalesocket.reload.overrides import NO_OVERRIDES, Overrides
from scalesocket.reload.preparation import Preparation
from scalesocket.reload.site_reader import digest_files
from scalesocket.server.known_versions import warn_of_unknown_versions
from scalesocket.server.service import Service, open_service
from scalesocket.sighup import HangupWatcher
from scalesocket.systemd import notify_ready, notify_stopping, take_listen_fds

log = structlog.get_logger("server")

SWITCH_INTERVAL: Final = 0.0005
"""Seconds after which a thread gives the interpreter back to the event loop; Python's default is 5 ms."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
GC_THRESHOLDS: Final = (2_000, 50, 100)
"""For gc.set_threshold: a young collection takes 0.5 ms, a full one 20 ms with 9,000 clients."""

STOP_HINT: Final = "press Ctrl+C again to stop at once"

Announce = Callable[[Sequence[str], Sequence[str], Site], None]
"""Called once when the server is ready, with the bound addresses, those of the admin surface, and the site."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of the server that are not part of the site."""

    loop: Literal["uvloop", "asyncio"] = "uvloop"
    is_oneshot: bool = False
    """Exit with 0 when the first room has ended: `--oneshot` of the bare command line."""
    is_watching: bool = True
    """Apply edits of the site file as they are made; else only on SIGHUP and `scalesocket reload`."""
    overrides: Overrides = NO_OVERRIDES
    """Settings of the command line that replace those of the site file; already applied to `site`."""


class Stop:
    """The state of the shutdown: the first request drains the server, the second one stops it at once."""

    def __init__(self) -> None:
        self.requested = anyio.Event()
        self.done = anyio.Event()
        """Set when the server has drained, or must exit at once."""
        self.is_forced = False
        self.has_failed = False
        """Whether the server stops because it cannot go on."""

    @property
    def code(self) -> int:
        """The exit code: 1 if the stop was forced, or the server cannot go on; else 0."""
        return int(self.is_forced or self.has_failed)

    def watch_signals(self) -> None:
        """Stop on SIGINT and SIGTERM, until `close`: also a signal that arrives during the cleanup forces the stop."""
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self.request, number.name)

    def close(self) -> None:
        """Let the next signal end the process. Call it last."""
        for number in SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def request(self, reason: str) -> None:
        """Start the shutdown; if it has started already, force it."""
        if self.requested.is_set():
            log.warning("stopping at once", reason=reason)
            self.is_forced = True
            self.done.set()
        else:
            log.info("stopping", reason=reason, **({"hint": STOP_HINT} if reason == "SIGINT" else {}))
            self.requested.set()


def serve(site: Site, *, announce: Announce, options: Options = Options()) -> int:
    """Serve a site until a signal stops it. Return the exit code: 0, or 1 if the stop was forced."""
    # The order matters. SIGHUP is blocked before there are threads. Sockets of systemd are taken before there are children,
    # which must not inherit them. The spawner starts before the limit of open files is raised, which children must not
    # inherit either, and before the event loop and its threads.
    check_open_files(count_start_files(site))
    hangups = HangupWatcher()
    take_listen_fds()
    spawner = SpawnerClient()
    spawner.start()
    raise_open_files()
    warn_of_few_files(count_open_files(site))
    warn_of_unknown_versions()
    try:
        backend_options = {"use_uvloop": options.loop == "uvloop"}
        return anyio.run(partial(_serve, site, spawner, hangups, announce, options), backend_options=backend_options)
    finally:
        spawner.close()


async def _serve(site: Site, spawner: SpawnerClient, hangups: HangupWatcher, announce: Announce, options: Options) -> int:
    digests = digest_files(site)  # before the files are loaded, so that no later change is missed: a node may take 5 s to start
    stop = Stop()
    async with AsyncExitStack() as stack:
        stack.callback(stop.close)
        if site.cluster is None:
            service = await stack.enter_async_context(open_service(site, spawner=spawner))
        else:
            from scalesocket.node.service import open_node_service  # which imports redis

            service = await stack.enter_async_context(open_node_service(site, spawner))
        await _run(service, stop, site, spawner, hangups, announce, options, digests)
    return stop.code


async def _run(
    service: Service,
    stop: Stop,
    site: Site,
    spawner: SpawnerClient,
    hangups: HangupWatcher,
    announce: Announce,
    options: Options,
    digests: Mapping[str, str],
) -> None:
    async with (
        open_reloader(
            service.gateway,
            operations=service.operations,
            prepare=[partial(_prepare_listeners, service), partial(_prepare_admin, service), *service.prepare],
            overrides=options.overrides,
            digests=digests,
            is_watching=options.is_watching,
        ) as reloader,
        anyio.create_task_group() as tasks,
    ):
        stop.watch_signals()  # before the server is announced
        watch_hangups(hangups, stop, None if reloader is None else partial(reloader.request, "SIGHUP"))
        tasks.start_soon(_watch_failure, service, stop, name="watch failure")
        if options.is_oneshot:
            tasks.start_soon(_watch_oneshot, service, stop, name="oneshot")
        tune_interpreter()
        announce(service.listeners.addresses, service.admin.listeners.addresses, site)
        notify_ready()
        await stop.requested.wait()
        notify_stopping()
        tasks.start_soon(_drain, service, stop, name="drain")
        await stop.done.wait()
        tasks.cancel_scope.cancel()
        if stop.is_forced:
            service.cut()
            spawner.close()  # kills all process groups of backends


async def _drain(service: Service, stop: Stop) -> None:
    await service.drain()
    log.info("stopped")
    stop.done.set()


async def _prepare_listeners(service: Service, site: Site, _: Plan) -> Preparation:
    return await service.listeners.prepare(site.server)


async def _prepare_admin(service: Service, site: Site, _: Plan) -> Preparation:
    return await service.admin.prepare(site.server)


def watch_hangups(hangups: HangupWatcher, stop: Stop, reload: Callable[[], None] | None) -> None:
    """Call `reload` on SIGHUP. Stop if the terminal hung up, or if there is nothing to reload."""
    loop = asyncio.get_running_loop()

    def handle(is_hangup: bool) -> None:
        if not is_hangup and reload is not None:
            reload()
        elif not stop.requested.is_set():  # kernel and shell may both send it: the second one must not force the stop
            stop.request("terminal hung up" if is_hangup else "SIGHUP")

    def report(is_hangup: bool) -> None:
        with suppress(RuntimeError):  # the event loop is closed: the server has stopped
            loop.call_soon_threadsafe(handle, is_hangup)

    hangups.watch(report)


async def _watch_failure(service: Service, stop: Stop) -> None:
    await service.failed.wait()
    stop.has_failed = True
    if not stop.requested.is_set():
        stop.request("failure")


async def _watch_oneshot(service: Service, stop: Stop) -> None:
    await service.gateway.room_ended.wait()
    if not stop.requested.is_set():  # else the room ended because of the shutdown
        stop.request("oneshot")


def tune_interpreter() -> None:
    """Shorten the pauses of the event loop that garbage collection and threads cause.

    Clients and rooms are freed by reference counts, so collections may be rare. With Python's default switch interval, a
    thread that parses an edited site file stalled the event loop for 10 ms.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()  # objects that live as long as the server are never examined again
    gc.set_threshold(*GC_THRESHOLDS)
