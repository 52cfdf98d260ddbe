"""The main of a worker process: a complete server, except for what the supervisor does.

It accepts connections at the sockets that the supervisor holds, has rooms, spawner and programs of its own, and ends when the
supervisor ends. It reads no site file and has no control socket: edits and operations arrive over its link.
"""

import asyncio
import ctypes
import os
import resource
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Final

import anyio
import structlog

from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.errors import SHUTTING_DOWN, WORKER_REPLACED, ScalesocketError
from scalesocket.logs import describe_loss, log_faults, set_log, set_log_keys
from scalesocket.open_files import raise_open_files
from scalesocket.overview import Readiness
from scalesocket.placement.facts import Delivery
from scalesocket.placement.inbox import Outbox
from scalesocket.placement.placement import WorkerPlacement
from scalesocket.placement.rendezvous import Rendezvous
from scalesocket.server.late_connections import serve_late
from scalesocket.server.owner import OpenInbox, open_inbox
from scalesocket.server.service import Service, open_service
from scalesocket.shared_memory.capacity import SharedCapacity
from scalesocket.shared_memory.memory import SharedMemory
from scalesocket.streams import open_missing_streams, unblock_output
from scalesocket.supervisor import Stop, tune_interpreter
from scalesocket.workers.edit_messages import EDIT, LATE
from scalesocket.workers.edited_worker import EditedWorker
from scalesocket.workers.link import Handlers, Link, LinkError, open_link
from scalesocket.workers.membership import Membership
from scalesocket.workers.messages import DrainWorker, Ping, StopWorker, WorkerFailed, WorkerReady
from scalesocket.workers.setup import LIMITS, Setup, read_setup
from scalesocket.workers.site_messages import GetReadiness

log = structlog.get_logger("worker")

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
ORPHAN_TIMEOUT: Final = 5.0
"""Seconds in which a worker ends by itself after its supervisor has ended; then it is killed."""
READINESS_TIMEOUT: Final = 1.0
"""Seconds for the answer of the supervisor whether the server shuts down."""


class Deliveries:
    """Descriptors that the supervisor has sent to the inbox of this worker, for the parts that wait for them."""

    def __init__(self) -> None:
        self._receivers: dict[str, Callable[[bytes, int], None]] = {}

    def add(self, name: str, receive: Callable[[bytes, int], None]) -> None:
        """Pass the details and the descriptor of deliveries of this name to `receive`, which owns the descriptor."""
        self._receivers[name] = receive

    def take(self, delivery: Delivery, fd: int) -> None:
        """Pass a delivery on. One that is not expected was sent to a predecessor of this process."""
        if (receive := self._receivers.get(delivery.name)) is None:
            os.close(fd)
        else:
            receive(delivery.details, fd)


def main() -> int:
    """Serve until the supervisor stops this worker or ends, or until a signal. Return the exit code."""
    # The order is that of `scalesocket.supervisor.serve`.
    open_missing_streams()
    setup = read_setup(0)
    unblock_output(describe_loss)
    set_log(setup.site.server.log.format, setup.site.server.log.level)
    set_log_keys(worker=setup.index)
    log_faults()
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it logs to a terminal in whose foreground it is not
    spawner = SpawnerClient()
    try:
        parent = open_parent(setup.supervisor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (setup.open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        spawner.start()
        raise_open_files()
        end_after(parent)
        return anyio.run(partial(_serve, setup, spawner), backend_options={"use_uvloop": setup.loop == "uvloop"})
    except ScalesocketError as error:
        log.error("worker failed", error=str(error))
        return 1
    finally:
        spawner.close()


async def _serve(setup: Setup, spawner: SpawnerClient) -> int:
    handlers = Handlers()
    handlers.add(Ping, lambda _: None)
    async with open_link(socket.socket(fileno=setup.link), handlers, peer="the supervisor") as link:
        try:
            return await _work(setup, spawner, link, handlers)
        except* ScalesocketError as group:
            reason = "; ".join(str(error) for error in flatten(group))
        link.notify(WorkerFailed(reason))
        return 1


async def _work(setup: Setup, spawner: SpawnerClient, link: Link, handlers: Handlers) -> int:
    given = {address: adopt(fd) for address, fd in setup.listeners}
    stop, deliveries = Stop(), Deliveries()
    with closing(stop), open_placement(setup) as placement, open_capacity(setup) as capacity, adopt(setup.inbox) as inbox_end:
        membership = Membership(setup, link, handlers, placement)
        async with (
            open_service(
                setup.site,
                spawner=spawner,
                given=given,
                pair=setup.pair,
                auth_files=setup.auth_files,
                placement=placement,
                capacity=capacity,
                attach=membership.attach,
            ) as service,
            anyio.create_task_group() as tasks,
        ):
            service.gateway.reload_state.generation = setup.generation
            inbox = open_inbox(inbox_end, service.connections, deliveries.take)
            edited = open_edited(service, handlers, deliveries, stop)
            with closing(inbox), closing(edited):
                add_stop_handlers(handlers, service, stop)
                stop.watch_signals()
                tasks.start_soon(_watch_link, link, stop, name="link")
                tasks.start_soon(_drain_at_signal, service, inbox, link, stop, name="drain")
                tune_interpreter()
                link.notify(WorkerReady())
                await stop.done.wait()
            service.listeners.leave()
            membership.report_last(service.gateway)
            tasks.cancel_scope.cancel()
            if stop.is_forced:
                service.cut()
                spawner.close()  # kills all process groups of backends
    return stop.code


@contextmanager
def open_placement(setup: Setup) -> Iterator[WorkerPlacement]:
    """Know where rooms live, and hand connections over to the other workers, within the block."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        outboxes = [Outbox(stack.enter_context(adopt(fd)), loop) for fd in setup.outboxes]
        for outbox in outboxes:
            stack.callback(outbox.close)
        yield WorkerPlacement(setup.index, Rendezvous(setup.count, setup.key), outboxes)


@contextmanager
def open_capacity(setup: Setup) -> Iterator[SharedCapacity]:
    """Count limits together with the other workers, within the block. Raises SharedMemoryError."""
    with closing(SharedMemory.open(setup.shared[LIMITS])) as memory:
        os.close(setup.shared[LIMITS])
        yield SharedCapacity(memory, setup.index)


def open_edited(service: Service, handlers: Handlers, deliveries: Deliveries, stop: Stop) -> EditedWorker:
    """Take edits of the site from the supervisor, and connections that arrived at addresses which they have removed."""

    def fail() -> None:
        stop.is_forced = True
        stop.done.set()

    edited = EditedWorker(service, is_ending=stop.requested.is_set, on_failed=fail)
    edited.add_handlers(handlers)
    deliveries.add(EDIT, edited.receive)
    deliveries.add(LATE, lambda _, fd: serve_late(fd, service.connections, service.listeners.tls))
    return edited


def add_stop_handlers(handlers: Handlers, service: Service, stop: Stop) -> None:
    """Let the supervisor drain this worker and end it."""

    async def drain(_: DrainWorker) -> None:
        service.gateway.admission.farewell = SHUTTING_DOWN
        await service.drain(is_everywhere=True)

    def end(message: StopWorker) -> None:
        stop.is_forced |= message.is_forced
        stop.done.set()

    handlers.add(DrainWorker, drain)
    handlers.add(StopWorker, end)


async def _drain_at_signal(service: Service, inbox: OpenInbox, link: Link, stop: Stop) -> None:
    """Drain after a signal to this worker alone. The others accept meanwhile, and what they hand over waits for a successor."""
    await stop.requested.wait()
    service.listeners.leave()
    inbox.stop()
    if await _goes_on(link):
        service.gateway.admission.farewell = WORKER_REPLACED
    await service.drain()
    stop.done.set()


async def _goes_on(link: Link) -> bool:
    """Whether the server goes on without this worker. It does not if a service manager has sent the signal to all processes."""
    try:
        return not (await link.call(GetReadiness(), Readiness, timeout=READINESS_TIMEOUT)).is_draining
    except LinkError:
        return True


async def _watch_link(link: Link, stop: Stop) -> None:
    """Stop at once when the supervisor has ended."""
    await asyncio.shield(link.lost)
    log.error("the supervisor has ended", hint="this worker ends, too")
    stop.is_forced = True
    stop.done.set()


def open_parent(supervisor: int) -> int:
    """Return a descriptor that is readable when the parent of this process has ended. Raises ScalesocketError if it has."""
    # The signal lets this process run and end after its parent, even if another signal has stopped it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)
    pidfd = os.pidfd_open(supervisor)
    if os.getppid() != supervisor:
        raise ScalesocketError("the supervisor has ended")
    return pidfd


def end_after(parent: int) -> None:
    """Kill this process some seconds after its parent has ended: its event loop may be stuck."""

    def watch() -> None:
        poll = select.poll()
        poll.register(parent, select.POLLIN)
        poll.poll()
        time.sleep(ORPHAN_TIMEOUT)
        os.kill(os.getpid(), signal.SIGKILL)  # the spawner then kills the programs

    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        threading.Thread(target=watch, name="parent", daemon=True).start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def adopt(fd: int) -> socket.socket:
    """Return the inherited socket."""
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock


def flatten(group: BaseExceptionGroup[ScalesocketError]) -> list[ScalesocketError]:
    """Return the errors in a group and in the groups in it."""
    found: list[ScalesocketError] = []
    for error in group.exceptions:
        found += flatten(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
