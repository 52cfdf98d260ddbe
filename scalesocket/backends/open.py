"""Opens the backend of a room: a process on stdio, a process on a port, or a connection to a target."""

import asyncio
import math
from collections.abc import Mapping
from typing import Final

import anyio
import structlog

from scalesocket.backends.backend import Backend, Receiver
from scalesocket.backends.child import SpawnRequest
from scalesocket.backends.connection import connect_tcp, connect_unix, describe
from scalesocket.backends.ports import Ports
from scalesocket.backends.spawner_client import TOO_MANY_FILES, SpawnerClient
from scalesocket.backends.stdio import StdioBackend
from scalesocket.backends.tcp import PortBackend, TargetBackend
from scalesocket.config.describe import quote_command
from scalesocket.config.model import App
from scalesocket.errors import MAX_REASON, BackendError
from scalesocket.io.descriptors import are_free

MAX_STARTS: Final = 3
"""Attempts to start a process that ends before it listens: another process may have taken the port meanwhile."""

log = structlog.get_logger()


async def open_backend(
    app: App, env: Mapping[str, str], *, room: str, receiver: Receiver, spawner: SpawnerClient, ports: Ports
) -> Backend:
    """Start or connect the backend of a room. If this fails or is cancelled, nothing of it is left.

    `env`: the whole environment of the child, without `PORT`. Raises BackendError, whose text fits a close reason; the log
    has more.
    """
    try:
        if app.command is None:
            return await _open_target(app, receiver, spawner)
        request = SpawnRequest(
            argv=app.command,
            env=env,
            cwd=str(app.cwd),
            user=app.user,
            group=app.group,
            limits=_limits(app),
        )
        if app.port is None:
            return await _open_stdio(app, request, room, receiver, spawner)
        return await _open_port(app, request, room, receiver, spawner, ports)
    except BackendError as error:
        what = {"command": quote_command(app.command)} if app.command is not None else {"target": _target(app)}
        log.error("backend not opened", app=app.name, room=room, **what, error=str(error))
        verb = "start" if app.command is not None else "connect to"
        raise BackendError(_reason(verb, app.command[0] if app.command is not None else _target(app), str(error))) from error


async def _open_stdio(app: App, request: SpawnRequest, room: str, receiver: Receiver, spawner: SpawnerClient) -> StdioBackend:
    child = await spawner.spawn(request)
    if app.start_delay:
        try:
            await asyncio.sleep(app.start_delay)
        except BaseException:
            await child.abandon()
            raise
    return StdioBackend(child, receiver, app=app.name, room=room)


async def _open_port(
    app: App, request: SpawnRequest, room: str, receiver: Receiver, spawner: SpawnerClient, ports: Ports
) -> PortBackend:
    assert app.port is not None
    for attempt in range(1, MAX_STARTS + 1):
        port = ports.take(app.port.first, app.port.last)
        try:
            child = await spawner.spawn(request.with_env(PORT=str(port)))
        except BaseException:
            ports.release(port)
            raise
        backend = PortBackend(child, receiver, port, ports, app=app.name, room=room)
        try:
            await backend.connect(timeout=app.start_timeout, delay=app.start_delay)
        except BackendError as error:
            has_failed = backend.exit is not None and not backend.exit.is_success
            await backend.abandon()
            if not has_failed or app.port.first == app.port.last != 0 or attempt == MAX_STARTS:
                raise
            log.info("backend restarted on another port", app=app.name, room=room, port=port, error=str(error))
        except BaseException:
            await backend.abandon()
            raise
        else:
            return backend
    raise AssertionError("unreachable: the last attempt returns or raises")


async def _open_target(app: App, receiver: Receiver, spawner: SpawnerClient) -> TargetBackend:
    spawner.check_deadline()
    poller = spawner.poller
    if not are_free(1):
        raise BackendError(TOO_MANY_FILES)
    try:
        with anyio.fail_after(app.start_timeout):
            if app.unix is not None:
                connection = await connect_unix(app.unix, receiver, poller)
            else:
                assert app.tcp is not None
                connection = await connect_tcp(app.tcp.host, app.tcp.port, receiver, poller)
    except TimeoutError:
        raise BackendError(f"it did not accept within {app.start_timeout:g} s") from None
    except OSError as error:
        raise BackendError(describe(error)) from error
    connection.be_guarded(spawner.guard_socket)
    return TargetBackend(connection)


def _limits(app: App) -> dict[str, int]:
    limits = app.limits.model_dump(exclude_none=True) if app.limits is not None else {}
    return {name: math.ceil(limit) for name, limit in limits.items()}


def _target(app: App) -> str:
    return str(app.tcp if app.tcp is not None else app.unix)


def _reason(verb: str, name: str, error: str) -> str:
    """Make a close reason: `cannot start 'foo': no such file or directory`. A name that is too long is cut at its front."""
    room = MAX_REASON - len(f"cannot {verb} '…': {error}".encode())
    if len(name.encode()) > room:
        name = "…" + name.encode()[-max(room, 16) :].decode(errors="ignore")
    return f"cannot {verb} '{name}': {error}"
