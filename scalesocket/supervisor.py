"""The top of the task tree: spawner, loop, gateway, lanes, listeners, signals, and the way down."""

import asyncio
import gc
import resource
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import anyio
import structlog

from scalesocket.backends.launcher import Spawner
from scalesocket.config.model import Site
from scalesocket.gateway import Gateway, open_gateway
from scalesocket.server.asgi import GeneralLane
from scalesocket.server.door import Entrance
from scalesocket.server.handover import Hypercorn, open_hypercorn
from scalesocket.server.listen import Listeners, open_listeners

log = structlog.get_logger("server")

FAREWELL: Final = 3.0
"""Seconds that closing handshakes have after the last room has ended."""
OTHER_FILES: Final = 64
"""Open files beside those of connections and backends."""

Announce = Callable[[Sequence[str], Site], None]
"""Told once where the server listens: addresses with the ports found, and the site."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run, beside the site."""

    loop: Literal["uvloop", "asyncio"] = "uvloop"
    is_oneshot: bool = False
    """End, with 0, when the first room has ended: the bare command line's `--oneshot`."""


class Stop:
    """Whether the server is to stop: asked once, gracefully; twice, at once."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.forced = anyio.Event()

    def ask(self, why: str) -> None:
        """Stop; if asked before, force it."""
        if self.asked.is_set():
            log.warning("stopping at once", why=why)
            self.forced.set()
        else:
            log.info("stopping", why=why)
            self.asked.set()


def serve(site: Site, *, announce: Announce, options: Options = Options()) -> int:
    """Run a site until a signal ends it; return the exit code: 0, or 1 when it was forced or failed."""
    spawner = Spawner()
    spawner.start()  # before the limit is raised, which children must not inherit, and before the loop and its threads
    raise_open_files(site)
    try:
        backend_options = {"use_uvloop": options.loop == "uvloop"}
        return anyio.run(partial(_serve, site, spawner, announce, options), backend_options=backend_options)
    finally:
        spawner.close()


async def _serve(site: Site, spawner: Spawner, announce: Announce, options: Options) -> int:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(open_gateway(site, spawner=spawner))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        hypercorn = await stack.enter_async_context(open_hypercorn(GeneralLane(gateway, tasks), gateway))
        entrance = Entrance(gateway, hypercorn)
        listeners = await stack.enter_async_context(open_listeners(site.server, entrance))
        stop = Stop()
        tasks.start_soon(_watch_signals, stop, name="signals")
        if options.is_oneshot:
            tasks.start_soon(_watch_oneshot, gateway, stop, name="oneshot")
        gc.collect()
        gc.freeze()  # what lives as long as the server need not be looked at again and again
        announce(listeners.addresses, site)
        await stop.asked.wait()
        exit_code = await _shut_down(gateway, entrance, spawner, stop)
        tasks.cancel_scope.cancel()
    return exit_code


async def _shut_down(gateway: Gateway, entrance: Entrance, spawner: Spawner, stop: Stop) -> int:
    """Drain, unless it is forced; the listeners answer all the while. Returns the exit code."""

    async def drain() -> None:
        await gateway.drain()
        with anyio.move_on_after(FAREWELL):
            while entrance.connections:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()

    async def force() -> None:
        await stop.forced.wait()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drain, name="drain")
        tasks.start_soon(force, name="force")
    if stop.forced.is_set():
        gateway.cut()
        spawner.close()  # which kills every group it knows
        entrance.cut_all()
        return 1
    log.info("stopped")
    return 0


async def _watch_signals(stop: Stop) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            stop.ask(signal.Signals(number).name)


async def _watch_oneshot(gateway: Gateway, stop: Stop) -> None:
    await gateway.room_ended.wait()
    stop.ask("oneshot")


def raise_open_files(site: Site) -> None:
    """Raise the soft limit of open files to the hard one, and warn when it can't hold `max_connections`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = (site.server.max_connections or 0) + OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning("few open files", limit=hard, wanted=wanted, hint="raise the hard limit, as with LimitNOFILE= or ulimit -Hn")
