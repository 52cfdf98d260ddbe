"""The table of operations, and the one place that carries them out."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import msgspec
import structlog

from scalesocket.control.lists import ClientList, RoomList
from scalesocket.control.messages import (
    Caller,
    Clients,
    ClusterDrain,
    ClusterForget,
    ClusterStatus,
    Diff,
    Drain,
    Kick,
    Outcome,
    Reload,
    ReloadReport,
    Request,
    Restart,
    Rooms,
    Say,
    SayOutcome,
    Status,
    Stop,
    Tail,
    wait_of,
)
from scalesocket.errors import ScalesocketError
from scalesocket.operations.changes import drain, kick, restart, say, stop
from scalesocket.operations.cluster import drain_node, forget_node, list_nodes
from scalesocket.operations.listing import list_clients, list_rooms
from scalesocket.operations.lookup import OperationError
from scalesocket.operations.running import Running
from scalesocket.operations.site import diff_site, reload_site, show_status
from scalesocket.operations.tail import open_tail
from scalesocket.status import Forgotten, NodeEntry, SiteStatus

log = structlog.get_logger("operations")

UNLOGGED: Final = frozenset({"text"})
"""Arguments that the log leaves out: contents of messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation on the running site."""

    arguments: type[msgspec.Struct]
    """The request; its fields are the arguments, its docstring says what the operation does."""
    result: Any
    """The type of what it returns, which msgspec can encode."""
    changes: bool
    """Whether it changes something; then it is logged with who asked for it."""
    run: Callable[[Running, Any], Awaitable[Any]]


OPERATIONS: Final[Mapping[str, Operation]] = {
    "status": Operation(arguments=Status, result=SiteStatus, changes=False, run=show_status),
    "rooms": Operation(arguments=Rooms, result=RoomList, changes=False, run=list_rooms),
    "clients": Operation(arguments=Clients, result=ClientList, changes=False, run=list_clients),
    "diff": Operation(arguments=Diff, result=ReloadReport, changes=False, run=diff_site),
    "reload": Operation(arguments=Reload, result=ReloadReport, changes=True, run=reload_site),
    "kick": Operation(arguments=Kick, result=Outcome, changes=True, run=kick),
    "stop": Operation(arguments=Stop, result=Outcome, changes=True, run=stop),
    "restart": Operation(arguments=Restart, result=Outcome, changes=True, run=restart),
    "say": Operation(arguments=Say, result=SayOutcome, changes=True, run=say),
    "drain": Operation(arguments=Drain, result=Outcome, changes=True, run=drain),
    "cluster-status": Operation(arguments=ClusterStatus, result=list[NodeEntry], changes=False, run=list_nodes),
    "cluster-drain": Operation(arguments=ClusterDrain, result=Outcome, changes=True, run=drain_node),
    "cluster-forget": Operation(arguments=ClusterForget, result=Forgotten, changes=True, run=forget_node),
}
"""By name, which is also the `command` of the request and the name of the command (`cluster status` for `cluster-status`)."""
STREAMS: Final[Mapping[str, type[msgspec.Struct]]] = {"tail": Tail}
"""The operations whose result goes on, each with its arguments; see `Operations.open_tail`."""
MAX_TAILS: Final = 8
"""Tails at a time."""
MAX_WAITS: Final = 8
"""Operations at a time that wait for the end of rooms."""


@runtime_checkable
class Ending(Protocol):
    """Rooms that an operation has begun to close, so that it can wait for their end."""

    @property
    def outcome(self) -> Outcome:
        """What the operation has affected."""

    async def wait_ended(self, seconds: float) -> Outcome:
        """Wait at most `seconds`; return the outcome, with the number of rooms that have not ended."""


@runtime_checkable
class Tailing(Protocol):
    """The messages of rooms while they pass."""

    @property
    def outcome(self) -> Outcome:
        """The rooms and their clients."""

    async def read(self) -> bytes | None:
        """Wait for events and return some, each a line of JSON. None at the end."""

    def close(self) -> None:
        """Note nothing more. Calls may repeat."""


class Operated(Protocol):
    """A site that operations are carried out on: by this process, or by all workers."""

    async def carry_out(self, request: Request) -> object:
        """Do what a request asks for; return the result, or an `Ending`. Raises what `Operations.run` says."""

    async def open_tail(self, request: Tail) -> Tailing:
        """Show messages from now on. Raises NotFoundError, and OperationError if there are too many rooms."""


class LocalSite:
    """A site whose rooms are all in this process (`Operated`)."""

    def __init__(self, running: Running) -> None:
        """Operate on `running`."""
        self._running = running

    async def carry_out(self, request: Request) -> object:
        """Do what a request asks for."""
        return await operation_of(request).run(self._running, request)

    async def open_tail(self, request: Tail) -> Tailing:
        """Show messages from now on."""
        return open_tail(self._running, request)


def name_of(request: msgspec.Struct) -> str:
    """Return the name of an operation by its arguments."""
    return str(type(request).__struct_config__.tag)


def operation_of(request: Request) -> Operation:
    """Return the operation that a request asks for."""
    return OPERATIONS[name_of(request)]


class CountedTail:
    """A tail that holds one of `MAX_TAILS` places until it is closed."""

    def __init__(self, tail: Tailing, on_closed: Callable[[], None]) -> None:
        self.outcome = tail.outcome
        self.read = tail.read
        self._tail = tail
        self._on_closed: Callable[[], None] | None = on_closed

    def close(self) -> None:
        """End the tail, and release its place. Calls may repeat."""
        if self._on_closed is not None:
            self._on_closed()
            self._on_closed = None
            self._tail.close()


class Operations:
    """The operations on one running site, for callers that are already authenticated."""

    def __init__(self, running: Running, operated: Operated | None = None) -> None:
        """Operate on `running`; `operated`: on a site with rooms in other processes, too."""
        self.running = running
        self._operated = LocalSite(running) if operated is None else operated
        self._tails = 0
        self._waits = 0

    def operate_on(self, operated: Operated) -> None:
        """Operate on a site with rooms in other processes, too, from now on."""
        self._operated = operated

    async def run(self, request: Request, caller: Caller) -> object:
        """Carry out a request and return its result, of the type that the table says. Changes are logged with the caller,
        before the operation waits for the end of rooms.

        Raises OperationError (NotFoundError for what is not there), ConfigError, and other errors of the package.
        """
        name = name_of(request)
        if not operation_of(request).changes:
            return await self._operated.carry_out(request)
        wait = wait_of(request)
        with self._place_to_wait(name, request, caller):
            with _logged_failure(name, request, caller):
                result = await self._operated.carry_out(request)
            ending = result if isinstance(result, Ending) else None
            if ending is not None:
                result = ending.outcome
            log.info("operation", operation=name, asked_by=str(caller), **logged_arguments(request), **_counts(result))
            return result if ending is None or wait is None else await ending.wait_ended(wait)

    @contextmanager
    def _place_to_wait(self, name: str, request: Request, caller: Caller) -> Iterator[None]:
        """Hold one of `MAX_WAITS` places, if an operation waits. Raises OperationError if there is none."""
        places = int(wait_of(request) is not None)
        with _logged_failure(name, request, caller):
            if places and self._waits >= MAX_WAITS:
                raise OperationError(f"{MAX_WAITS} operations wait for the end of rooms already (end one, or do not wait)")
        self._waits += places
        try:
            yield
        finally:
            self._waits -= places

    async def open_tail(self, request: Tail, caller: Caller) -> Tailing:
        """Show the messages of rooms while they pass, until it is closed. It is logged, because it shows what users write.

        Raises NotFoundError, and OperationError if `MAX_TAILS` are open.
        """
        with _logged_failure("tail", request, caller):
            if self._tails >= MAX_TAILS:
                raise OperationError(f"{MAX_TAILS} tails are open already (end one of them)")
            self._tails += 1
            try:
                tail = CountedTail(await self._operated.open_tail(request), self._tail_closed)
            except BaseException:
                self._tail_closed()
                raise
        log.info("operation", operation="tail", asked_by=str(caller), **logged_arguments(request), **_counts(tail.outcome))
        return tail

    def _tail_closed(self) -> None:
        self._tails -= 1


def logged_arguments(request: msgspec.Struct) -> dict[str, object]:
    """Return the arguments of an operation, for the log."""
    return {key: value for key, value in msgspec.structs.asdict(request).items() if value is not None and key not in UNLOGGED}


@contextmanager
def _logged_failure(name: str, request: msgspec.Struct, caller: Caller) -> Iterator[None]:
    """Log an error of the package that an operation raises."""
    try:
        yield
    except ScalesocketError as error:
        log.warning(
            "operation failed",
            operation=name,
            asked_by=str(caller),
            **logged_arguments(request),
            error=str(error).split("\n", 1)[0],
        )
        raise


def _counts(result: object) -> dict[str, object]:
    """Return the counts of a result, and the nodes that were not reached, for the log."""
    fields = msgspec.structs.asdict(result) if isinstance(result, msgspec.Struct) else {}
    counts: dict[str, object] = {key: value for key, value in fields.items() if type(value) is int}
    return counts | ({"unreachable": ",".join(nodes)} if (nodes := fields.get("unreachable")) else {})
