"""The operations on the site over HTTP: `GET /admin/NAME` for those that read, `POST /admin/NAME` for those that change.

The routes are made from the table of operations. Arguments are in the query of a GET, and in the JSON body of a POST.
"""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Final

import anyio
import anyio.to_thread
import msgspec
from quart import Blueprint, Response, request

from scalesocket.config.problems import ConfigError
from scalesocket.control.messages import Caller, ClusterStatus, Tail, wait_of
from scalesocket.control.server import ANSWER_TIMEOUT
from scalesocket.errors import ScalesocketError
from scalesocket.operations.lookup import NotFoundError, OperationError
from scalesocket.operations.table import OPERATIONS, STREAMS, Operations
from scalesocket.reload.reloader import NoSuchAppError
from scalesocket.server.admin.openapi import describe_api
from scalesocket.server.admin.tail import answer_tail
from scalesocket.server.http.responses import answer_error, answer_json
from scalesocket.status import SiteStatus

CALLER: Final = "scalesocket.admin_caller"
"""Key in the ASGI scope: the address of the caller."""
VIA: Final = "admin API"
MAX_RUNNING: Final = 8
"""Operations that run at a time, but for those that wait for the end of rooms; others are queued."""

Route = Callable[[], Awaitable[Response]]
Answer = Callable[[msgspec.Struct, Caller], Awaitable[Response]]
"""Carries out an operation with its arguments for a caller."""


class BadArgumentsError(Exception):
    """The arguments of an operation are not what its table says."""


def operations_blueprint(operations: Operations) -> Blueprint:
    """Make a route for each operation, and that of their description."""
    blueprint = Blueprint("operations", __name__)
    running = anyio.Semaphore(MAX_RUNNING)

    async def run(arguments: msgspec.Struct, caller: Caller) -> Response:
        wait = wait_of(arguments)
        async with running if wait is None else nullcontext():  # those that wait are counted by `operations`
            with anyio.fail_after(ANSWER_TIMEOUT + (wait or 0)):
                result = await operations.run(arguments, caller)  # type: ignore[arg-type]  # one of the table
        return answer_json(await anyio.to_thread.run_sync(to_plain, result))

    async def tail(arguments: msgspec.Struct, caller: Caller) -> Response:
        assert isinstance(arguments, Tail)
        return await answer_tail(operations, arguments, caller)

    for name, operation in OPERATIONS.items():
        route = make_route(name, operation.arguments, run, has_body=operation.changes)
        blueprint.add_url_rule(f"/admin/{name}", name, route, methods=["POST" if operation.changes else "GET"])
    for name, arguments in STREAMS.items():
        blueprint.add_url_rule(f"/admin/{name}", name, make_route(name, arguments, tail, has_body=False), methods=["GET"])

    nodes = make_route("cluster-status", ClusterStatus, run, has_body=False)
    blueprint.add_url_rule("/api/cluster", "cluster", nodes, methods=["GET"])

    @blueprint.get("/api/openapi.json")
    async def openapi() -> Response:
        return answer_json(await anyio.to_thread.run_sync(describe_api))

    return blueprint


def make_route(name: str, arguments: type[msgspec.Struct], answer: Answer, *, has_body: bool) -> Route:
    """Make a route that reads the arguments of an operation, and answers with its result or its error."""

    async def route() -> Response:
        caller = Caller(via=VIA, name=request.scope[CALLER])  # type: ignore[typeddict-item]
        try:
            return await answer(await read_arguments(name, arguments, has_body=has_body), caller)
        except (NotFoundError, NoSuchAppError) as error:
            return answer_error(404, str(error))
        except (BadArgumentsError, OperationError) as error:
            return answer_error(422, str(error))
        except ConfigError as error:
            return answer_error(409, error.render())
        except ScalesocketError as error:
            return answer_error(409, str(error))
        except TimeoutError:
            return answer_error(503, f"not done within {ANSWER_TIMEOUT:.0f} s")

    return route


async def read_arguments(name: str, arguments: type[msgspec.Struct], *, has_body: bool) -> msgspec.Struct:
    """Read the arguments of an operation from the body or the query of the request. Raises BadArgumentsError."""
    try:
        given = msgspec.json.decode(await request.get_data() or b"{}") if has_body else request.args.to_dict()
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadArgumentsError(f"the body is not JSON: {error}") from error
    if not isinstance(given, dict) or "command" in given:
        raise BadArgumentsError("the arguments are not an object of the fields that /api/openapi.json lists")
    try:
        return msgspec.convert({**given, "command": name}, arguments, strict=has_body)
    except msgspec.ValidationError as error:
        text = str(error)
        raise BadArgumentsError(text[:1].lower() + text[1:]) from error


def to_plain(result: object) -> object:
    """Return a result as plain data. The metadata of rooms, which is JSON text, becomes a part of it."""
    if not isinstance(result, SiteStatus):
        return result
    record = msgspec.to_builtins(result, builtin_types=(bytes,))
    for app in record["apps"]:
        for room in app["rooms"]:
            room["metadata"] = None if room["metadata"] is None else msgspec.Raw(room["metadata"])
    return record
