"""The main of the supervisor process: a server of several workers, from its start to its stop.

It has what a server has once: the listening sockets, the control socket, signals and the reports to systemd. It has no rooms, and
accepts no connection of a client.
"""

import os
import resource
import time
from contextlib import AsyncExitStack, closing
from functools import partial
from typing import Final, Literal

import anyio
import structlog
from anyio.abc import TaskGroup

from scalesocket.auth.files import AuthFiles
from scalesocket.config.model import Site
from scalesocket.config.plan import Plan
from scalesocket.open_files import OTHER_FILES, check_open_files, count_start_files, raise_open_files, warn_of_few_files
from scalesocket.placement.inbox import MAX_WAITING
from scalesocket.reload.open import open_editing
from scalesocket.reload.preparation import Preparation
from scalesocket.server.known_versions import warn_of_unknown_versions
from scalesocket.server.listen import open_listeners
from scalesocket.sighup import HangupWatcher
from scalesocket.supervisor import Announce, Options, Stop, tune_interpreter, watch_hangups
from scalesocket.systemd import notify_ready, notify_stopping, take_listen_fds
from scalesocket.workers.edited_workers import EditedWorkers
from scalesocket.workers.edits import Edits
from scalesocket.workers.leftovers import become_subreaper
from scalesocket.workers.operator_service import OperatorService, open_operator_service
from scalesocket.workers.workers import Workers, open_workers

log = structlog.get_logger("server")

FILES_OF_WORKER: Final = 4
"""Files that the supervisor keeps open for each worker: its link, its pidfd, and both ends of its inbox."""
REPORT_INTERVAL: Final = 2.0
"""Seconds between two reports of how many workers are ready."""


def count_workers(workers: int | Literal["auto"]) -> int:
    """Return the number of workers; `"auto"` is one for each CPU that this process may use."""
    return len(os.sched_getaffinity(0)) if workers == "auto" else workers


def count_files_of_worker(site: Site, workers: int) -> int:
    """Return the descriptors that one worker needs if it accepts all clients, or has all of them in its rooms.

    With TLS, a client whose room is in another worker takes two: its connection, and one end of a socket pair. Others may
    wait for one inbox that is full. Those that the kernel holds for an inbox are compared with the limit by themselves (unix(7)).
    """
    connections = (site.server.max_connections or 0) * (1 if site.server.tls is None else 2)
    return connections + MAX_WAITING + workers + OTHER_FILES


def serve(site: Site, *, announce: Announce, options: Options) -> int:
    """Serve a site with several workers until a signal stops it. Return the exit code: 0, or 1 if the stop was forced."""
    check_open_files(count_start_files(site) + FILES_OF_WORKER * count_workers(site.server.workers))
    hangups = HangupWatcher()
    take_listen_fds()
    become_subreaper()
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    raise_open_files()
    warn_of_few_files(count_files_of_worker(site, count_workers(site.server.workers)))
    warn_of_unknown_versions()
    return anyio.run(
        partial(_serve, site, hangups, announce, options, open_files), backend_options={"use_uvloop": options.loop == "uvloop"}
    )


async def _serve(site: Site, hangups: HangupWatcher, announce: Announce, options: Options, open_files: int) -> int:
    stop = Stop()
    async with AsyncExitStack() as stack:
        stack.callback(stop.close)
        auth_files = AuthFiles(site)
        listeners = await stack.enter_async_context(open_listeners(site.server, None))
        workers = await stack.enter_async_context(
            open_workers(site, count=count_workers(site.server.workers), loop=options.loop, open_files=open_files)
        )
        workers.listeners = listeners.sockets
        workers.auth_files = auth_files.contents
        workers.pair = None if listeners.tls is None else listeners.tls.pair
        operators = await stack.enter_async_context(open_operator_service(workers))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        edits = stack.enter_context(closing(Edits(workers, operators.gateway.admission, listeners, auth_files, tasks)))
        reloader = await stack.enter_async_context(
            open_editing(
                EditedWorkers(workers, operators.gateway),
                operators.operations,
                prepare=[partial(_prepare_admin, operators), edits.prepare],
                overrides=options.overrides,
                is_watching=options.is_watching,
            )
        )
        stop.watch_signals()
        watch_hangups(hangups, stop, None if reloader is None else partial(reloader.request, "SIGHUP"))
        tasks.start_soon(workers.run, name="workers")
        tasks.start_soon(workers.leftovers.run, name="orphans")
        if await _wait_ready(workers, site, stop):
            tune_interpreter()
            announce(listeners.addresses, operators.admin.listeners.addresses, site)
            notify_ready()
        await _wait_stopped(workers, operators, stop, tasks)
    return stop.code


async def _prepare_admin(operators: OperatorService, site: Site, _: Plan) -> Preparation:
    return await operators.admin.prepare(site.server)


async def _wait_ready(workers: Workers, site: Site, stop: Stop) -> bool:
    """Wait until all workers are ready, and report how many are; False if the server is stopped before. Raises WorkersError."""
    count, began = len(workers.members), time.monotonic()
    log.info("workers starting", workers=count, **({"setting": "auto"} if site.server.workers == "auto" else {}))
    async with anyio.create_task_group() as tasks:

        async def wait_stop() -> None:
            await stop.requested.wait()
            tasks.cancel_scope.cancel()

        async def report() -> None:
            while True:
                await anyio.sleep(REPORT_INTERVAL)
                log.info("workers starting", ready=sum(worker.is_ready for worker in workers.members), workers=count)

        tasks.start_soon(wait_stop)
        tasks.start_soon(report)
        await workers.wait_ready()
        tasks.cancel_scope.cancel()
        log.info("workers ready", workers=count, seconds=round(time.monotonic() - began, 1))
        return True
    return False


async def _wait_stopped(workers: Workers, operators: OperatorService, stop: Stop, tasks: TaskGroup) -> None:
    """Serve until a signal, or until no worker can be started; then end all workers."""

    async def wait_failed() -> None:
        await workers.failed.wait()
        log.critical("no worker can be started", hint="the server exits; the reasons are above")
        stop.is_forced = True
        stop.requested.set()
        stop.done.set()

    async def drain() -> None:
        await workers.drain()
        if not stop.is_forced:
            log.info("stopped")
        stop.done.set()

    tasks.start_soon(wait_failed, name="failed workers")
    await stop.requested.wait()
    notify_stopping()
    operators.note_shutdown()
    tasks.start_soon(drain, name="drain")
    await stop.done.wait()
    await workers.stop(is_forced=stop.is_forced)
