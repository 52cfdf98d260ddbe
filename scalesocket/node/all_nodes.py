"""Operations on the site of all nodes (`table.Operated`): each node carries them out on its own rooms."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from scalesocket.cluster.link import EngineError
from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.peer_stream import PeerStream, open_stream
from scalesocket.cluster.ready import PeerError
from scalesocket.cluster.records import NodeStatus
from scalesocket.cluster.requests_of_nodes import AwaitEnd, NodeRequest, Operate, ReleaseHeld, encode
from scalesocket.control.lists import ALL_OTHERS
from scalesocket.control.messages import ClusterRequest, Diff, Drain, Outcome, Reload, Request, SayOutcome, Status, Tail, wait_of
from scalesocket.node.tails import NodeTail, OwnTail
from scalesocket.operations.lookup import ANY, NotFoundError, OperationError
from scalesocket.operations.running import Running
from scalesocket.operations.table import OPERATIONS, STREAMS, Tailing, name_of, operation_of
from scalesocket.operations.tail import check_number
from scalesocket.workers.merge import MERGES, add_outcomes, merge_missing
from scalesocket.workers.merged_tail import MergedTail, TailPart
from scalesocket.workers.own_rooms import OwnRooms
from scalesocket.workers.site_messages import Ran, Release, Run, WaitEnded

log = structlog.get_logger("cluster")

OF_THIS_NODE: Final = (Status, Diff, Reload, *ClusterRequest.__args__)
"""Requests that one node answers: each node has a site file of its own."""
OPERATE_TIMEOUT: Final = 20.0
"""Seconds for another node to carry out an operation."""
OPEN_TIMEOUT: Final = 5.0
"""Seconds for another node to open a tail."""
AWAIT: Final = 10.0
"""Seconds for which one request waits for the end of rooms; longer waits take several."""

RELEASE_TIMEOUT: Final = 2.0
"""Seconds for all other nodes to end a wait, for which the operator waits, too."""

FindNodes = Callable[[], Awaitable[Sequence[NodeStatus]]]


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What a node has answered."""

    node: str
    address: str | None
    """None: this node."""
    ran: Ran
    result: Any = None
    """Of the type that the table says, if the operation was carried out."""
    is_reached: bool = True


class AllNodes:
    """The nodes of a cluster."""

    def __init__(self, node: str, running: Running, own: OwnRooms, find_others: FindNodes, client: PeerClient) -> None:
        """Operate on the rooms of this node, `own`, and on those of the others."""
        self._node = node
        self._running = running
        self._own = own
        self._find_others = find_others
        self._client = client

    async def carry_out(self, request: Request) -> object:
        """Do what a request asks for, on all nodes."""
        is_shutdown = isinstance(request, Drain) and request.app is None  # until this server is started again
        if isinstance(request, OF_THIS_NODE) or is_shutdown:
            return await operation_of(request).run(self._running, request)
        answers = await self._ask_all(request)
        try:
            result = merge(request, answers)
        except BaseException:
            await self._release(answers)
            raise
        return result if wait_of(request) is None else EndingOnNodes(result, answers, self._wait, self._release)

    async def open_tail(self, request: Tail) -> Tailing:
        """Show messages of rooms, on whichever nodes they are."""
        parts: list[TailPart] = []
        try:
            answers = await self._ask_all(request, parts)
            outcome: Outcome = merge(request, answers)
            check_number(outcome.rooms)
        except BaseException:
            MergedTail(Outcome(rooms=0, clients=0), parts).close()
            raise
        return MergedTail(outcome, parts)

    async def _ask_all(self, request: Request, parts: list[TailPart] | None = None) -> list[NodeAnswer]:
        """Return the answers of all nodes. For a tail, `parts` gets what each of them shows."""
        ran = await self._own.run(Run(request))
        own = NodeAnswer(self._node, None, ran, read_result(self._node, ran, request))
        if parts is not None and ran.held is not None:
            parts.append(OwnTail(self._own, ran.held, own.result.rooms, self._node))
        try:
            others = await self._find_others()
        except EngineError as error:
            log.warning("only this node was asked", operation=name_of(request), error=str(error))
            return [own, NodeAnswer(ALL_OTHERS, None, Ran(error=str(error)), is_reached=False)]
        return [own, *await asyncio.gather(*(self._ask(node, request, parts) for node in others))]

    async def _ask(self, node: NodeStatus, request: Request, parts: list[TailPart] | None) -> NodeAnswer:
        name, address = node.address.node, node.address.advertise
        asked = Operate(request, f"node {self._node}")
        try:
            if parts is None:
                ran: Ran = await ask(self._client, address, asked, Ran)
                result = read_result(address, ran, request)
            else:
                stream = await open_stream(self._client, address, encode(asked), timeout=OPEN_TIMEOUT)
                ran, result = read_first(address, stream, request)
                if ran.is_done:
                    parts.append(NodeTail(stream, result.rooms, name))
        except PeerError as error:
            log.warning("node not reached", node=name, operation=name_of(request), error=str(error))
            return NodeAnswer(name, address, Ran(error=str(error)), is_reached=False)
        return NodeAnswer(name, address, ran, result)

    async def _wait(self, answer: NodeAnswer, seconds: float) -> Outcome:
        held = answer.ran.held
        begun: Outcome = answer.result
        if held is None:
            return msgspec.structs.replace(begun, pending=0)
        if answer.address is None:
            return await self._own.wait_ended(WaitEnded(held, seconds))
        loop = asyncio.get_running_loop()
        until, outcome = loop.time() + seconds, msgspec.structs.replace(begun, pending=begun.rooms)
        try:
            while outcome.pending and (left := until - loop.time()) > 0:
                outcome = await ask(self._client, answer.address, AwaitEnd(held, min(AWAIT, left)), Outcome)
        except PeerError as error:
            log.warning("waiting for the rooms of a node failed", node=answer.node, error=str(error))
            return msgspec.structs.replace(outcome, unreachable=(answer.node,))
        return outcome

    async def _release(self, answers: Sequence[NodeAnswer]) -> None:
        """End the waits of all nodes. One that is not reached ends its own when there are too many (`OwnRooms`)."""

        async def release(answer: NodeAnswer, held: int) -> None:
            if answer.address is None:
                self._own.release(Release(held))
                return
            try:
                await ask(self._client, answer.address, ReleaseHeld(held), type(None), timeout=RELEASE_TIMEOUT)
            except PeerError as error:
                log.debug("node not reached", node=answer.node, error=str(error))

        await asyncio.gather(*(release(answer, answer.ran.held) for answer in answers if answer.ran.held is not None))


class EndingOnNodes:
    """Rooms on several nodes that have begun to close (`table.Ending`)."""

    def __init__(
        self,
        outcome: Outcome,
        answers: Sequence[NodeAnswer],
        wait: Callable[[NodeAnswer, float], Awaitable[Outcome]],
        release: Callable[[Sequence[NodeAnswer]], Awaitable[None]],
    ) -> None:
        self.outcome = outcome
        self._answers = [answer for answer in answers if answer.ran.is_done]
        self._wait = wait
        self._release = release

    async def wait_ended(self, seconds: float) -> Outcome:
        """Wait for the end of the rooms on all nodes."""
        try:
            ended = add_outcomes(await asyncio.gather(*(self._wait(answer, seconds) for answer in self._answers)))
            return msgspec.structs.replace(ended, unreachable=self.outcome.unreachable + ended.unreachable)
        finally:
            await self._release(self._answers)


async def ask(
    client: PeerClient, address: str, request: NodeRequest, kind: type[Any], *, timeout: float = OPERATE_TIMEOUT
) -> Any:
    """Ask another node. Raises PeerError."""
    return decode(address, await client.request(address, encode(request), timeout=timeout), kind)


def read_first(address: str, stream: PeerStream, request: Request) -> tuple[Ran, Any]:
    """Return what a stream begins with, and close one that has nothing else. Raises PeerError."""
    is_open = False
    try:
        ran: Ran = decode(address, stream.first, Ran)
        result = read_result(address, ran, request)
        is_open = ran.is_done
        return ran, result
    finally:
        if not is_open:
            stream.close()


def decode(address: str, response: bytes | msgspec.Raw, kind: type[Any]) -> Any:
    """Decode the answer of the node at `address`. Raises PeerError."""
    try:
        return msgspec.msgpack.decode(response, type=kind)
    except msgspec.DecodeError as error:
        raise PeerError(f"{address}: {error} (does it run another version?)") from error


def read_result(where: str, ran: Ran, request: Request) -> Any:
    """Return the result of an operation on one node; None if there is none. Raises PeerError."""
    name = name_of(request)
    kind = Outcome if name in STREAMS else OPERATIONS[name].result
    return decode(where, ran.result, kind) if ran.is_done else None


def merge(request: Request, answers: Sequence[NodeAnswer]) -> Any:
    """Return the result of all nodes, with the names of those that were not reached.

    Raises NotFoundError only if no node that was reached has what the request names, and OperationError if one failed that should
    have changed something; then its text says what the others have done.
    """
    name = name_of(request)
    is_partial = name not in STREAMS and not OPERATIONS[name].changes
    done = [answer.result for answer in answers if answer.ran.is_done]
    merged = MERGES[name](done) if done else None
    failures = {answer.node: answer.ran.error for answer in answers if answer.is_reached and answer.ran.error is not None}
    if failures and not (is_partial and done):
        raise OperationError(describe_failures(failures, answers[0].node, None if name in STREAMS else merged))
    for node, error in failures.items():
        log.warning("node left out of a list", node=node, operation=name, error=error)
    unreachable = tuple(answer.node for answer in answers if not answer.is_reached)
    if merged is None:
        missing = merge_missing([answer.ran.missing for answer in answers if answer.ran.missing is not None], [])
        raise name_unreachable(missing, unreachable) if unreachable else missing
    if names_one_room(request):  # and a node has it
        return merged
    return msgspec.structs.replace(merged, unreachable=(*unreachable, *failures))


def names_one_room(request: Request) -> bool:
    """Return whether a request is about one room, which one node has."""
    room = getattr(request, "room", None)
    return getattr(request, "app", None) is not None and room is not None and ANY not in room


def name_unreachable(error: NotFoundError, nodes: Sequence[str]) -> NotFoundError:
    """Add to an error the nodes that may have what was not found."""
    if ALL_OTHERS in nodes:
        which = "the engine does not answer, so only this node was asked"
    else:
        which = f"not reached: {', '.join(nodes)}; scalesocket cluster status shows why"
    return NotFoundError(f"{error.text} ({which})", certainty=error.certainty, word=error.word, near=error.near)


def describe_failures(failures: Mapping[str, str], own: str, merged: object) -> str:
    """Say which nodes failed, and what the others have done in spite of that. An error that all have alike names none."""
    if merged is None and own in failures and len(set(failures.values())) == 1:
        return failures[own]
    text = "; ".join(f"node {node}: {error}" for node, error in failures.items())
    if isinstance(merged, Outcome | SayOutcome):
        text += f" (done on the other nodes: {merged.rooms} room{'' if merged.rooms == 1 else 's'})"
    return text
