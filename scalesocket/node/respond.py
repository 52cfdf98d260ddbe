"""Answers what other nodes ask for: claims of rooms, and operations on the rooms of this node."""

from collections.abc import Callable

import msgspec
import structlog

from scalesocket.cluster.arrivals import InvalidRequestError
from scalesocket.cluster.claims import Claims
from scalesocket.cluster.directory import Directory
from scalesocket.cluster.records import RoomName
from scalesocket.cluster.requests_of_nodes import (
    AwaitEnd,
    Claimed,
    ClaimRoom,
    DrainNode,
    Identify,
    Identity,
    Operate,
    ReleaseHeld,
    decode_request,
    encode,
)
from scalesocket.control.messages import ClusterDrain, ClusterForget, ClusterStatus, Outcome, Tail
from scalesocket.node.tails import SentTail
from scalesocket.operations.lookup import OperationError
from scalesocket.operations.running import Running
from scalesocket.operations.table import logged_arguments, name_of, operation_of
from scalesocket.placement.placement import Here
from scalesocket.workers.own_rooms import OwnRooms
from scalesocket.workers.site_messages import Ran, Release, Run, WaitEnded

log = structlog.get_logger("operations")


class Responder:
    """Answers requests of other nodes, whose signatures were checked."""

    own: OwnRooms
    """The rooms of this node."""

    def __init__(
        self, directory: Directory, claims: Claims, takes_rooms: Callable[[], bool], drain: Callable[[], Outcome]
    ) -> None:
        """Claim rooms in `directory`, if this node takes any. `drain` drains it."""
        self._directory = directory
        self._claims = claims
        self._takes_rooms = takes_rooms
        self._drain = drain

    def attach(self, running: Running) -> None:
        """Carry operations out on a running site."""
        self.own = OwnRooms(running)

    async def respond(self, payload: bytes) -> bytes:
        """Answer a request. Raises InvalidRequestError."""
        try:
            request = decode_request(payload)
        except msgspec.DecodeError as error:
            raise InvalidRequestError(str(error)) from error
        match request:
            case ClaimRoom(app, room):
                return encode(await self._claim(RoomName(app, room)))
            case DrainNode():
                return encode(self._drain_node(request))
            case Operate():
                return encode(await self._operate(request))
            case AwaitEnd(held, seconds):
                try:
                    return encode(await self.own.wait_ended(WaitEnded(held, seconds)))
                except OperationError:  # released, because there were too many
                    return msgspec.msgpack.encode(None)
            case Identify():
                session = self._directory.session
                inc = "" if session is None else session.inc
                return encode(Identity(self._directory.node, inc, not self._takes_rooms()))
            case ReleaseHeld(held):
                self.own.release(Release(held))
        return encode(None)

    async def _claim(self, name: RoomName) -> Claimed:
        found = await self._claims.claim(name) if self._takes_rooms() else None
        if isinstance(found, Here):
            fence = self._directory.fence_of(*name)
            return Claimed("") if fence is None else Claimed(self._directory.advertise, fence)
        return Claimed("") if found is None else Claimed(found.address, found.fence)

    def _drain_node(self, request: DrainNode) -> Ran:
        session = self._directory.session
        if session is None or (session.node, session.inc) != (request.node, request.inc):
            return Ran(error=f"another process is at {self._directory.advertise} by now (try again)")
        outcome = self._drain()
        log.info("operation", operation="cluster-drain", asked_by=request.asked_by, node=request.node, rooms=outcome.rooms)
        return Ran(result=msgspec.Raw(encode(outcome)))

    async def _operate(self, request: Operate) -> Ran:
        if isinstance(request.request, Tail | ClusterStatus | ClusterDrain | ClusterForget):
            return Ran(error=f"{name_of(request.request)} is not for a node to ask")
        ran = await self.own.run(Run(request.request))
        if operation_of(request.request).changes:
            arguments = logged_arguments(request.request)
            log.info("operation", operation=name_of(request.request), asked_by=request.asked_by, **arguments, is_done=ran.is_done)
        return ran

    async def open_stream(self, payload: bytes) -> SentTail:
        """Open a tail of rooms of this node. It is logged, because it shows what users write. Raises InvalidRequestError."""
        try:
            request = decode_request(payload)
        except msgspec.DecodeError as error:
            raise InvalidRequestError(str(error)) from error
        if not (isinstance(request, Operate) and isinstance(request.request, Tail)):
            raise InvalidRequestError("no tail")
        ran = await self.own.run(Run(request.request))
        if ran.is_done:
            log.info("operation", operation="tail", asked_by=request.asked_by, **logged_arguments(request.request))
        return SentTail(self.own, ran)
