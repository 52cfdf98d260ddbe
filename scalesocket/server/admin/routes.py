"""The operations on the site over HTTP: `GET /admin/NAME` for those that read, `POST /admin/NAME` for those that change.

The routes are made from the table of operations. Arguments are in the query of a GET, and in the JSON body of a POST.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import anyio.to_thread
import msgspec
from quart import Blueprint, Response, request

from scalesocket.config.problems import ConfigError
from scalesocket.control.messages import Caller
from scalesocket.control.server import ANSWER_TIMEOUT
from scalesocket.errors import ScalesocketError
from scalesocket.operations.lookup import NotFoundError, OperationError
from scalesocket.operations.table import OPERATIONS, Operation, Operations
from scalesocket.reload.reloader import NoSuchAppError
from scalesocket.server.admin.openapi import describe_api
from scalesocket.server.http.responses import answer_error, answer_json
from scalesocket.status import SiteStatus

CALLER: Final = "scalesocket.admin_caller"
"""Key in the ASGI scope: the address of the caller."""
VIA: Final = "admin API"
MAX_RUNNING: Final = 8
"""Operations that run at a time; others wait."""

Route = Callable[[], Awaitable[Response]]


class BadArgumentsError(Exception):
    """The arguments of an operation are not what its table says."""


def operations_blueprint(operations: Operations) -> Blueprint:
    """Make a route for each operation, and that of their description."""
    blueprint = Blueprint("operations", __name__)
    running = anyio.Semaphore(MAX_RUNNING)

    def make_route(name: str, operation: Operation) -> Route:
        async def run() -> Response:
            try:
                arguments = await read_arguments(name, operation)
            except BadArgumentsError as error:
                return answer_error(422, str(error))
            async with running:
                return await answer(operations, arguments, Caller(via=VIA, name=request.scope[CALLER]))  # type: ignore[typeddict-item]

        return run

    for name, operation in OPERATIONS.items():
        method = "POST" if operation.changes else "GET"
        blueprint.add_url_rule(f"/admin/{name}", name, make_route(name, operation), methods=[method])

    @blueprint.get("/api/openapi.json")
    async def openapi() -> Response:
        return answer_json(await anyio.to_thread.run_sync(describe_api))

    return blueprint


async def read_arguments(name: str, operation: Operation) -> msgspec.Struct:
    """Read the arguments of an operation from the request. Raises BadArgumentsError."""
    try:
        given = msgspec.json.decode(await request.get_data() or b"{}") if operation.changes else request.args.to_dict()
    except msgspec.DecodeError as error:
        raise BadArgumentsError(f"the body is not JSON: {error}") from error
    if not isinstance(given, dict) or "command" in given:
        raise BadArgumentsError("the arguments are not an object of the fields that /api/openapi.json lists")
    try:
        return msgspec.convert({**given, "command": name}, operation.arguments, strict=operation.changes)
    except msgspec.ValidationError as error:
        text = str(error)
        raise BadArgumentsError(text[:1].lower() + text[1:]) from error


async def answer(operations: Operations, arguments: msgspec.Struct, caller: Caller) -> Response:
    """Carry out an operation, and answer with its result or its error."""
    try:
        with anyio.fail_after(ANSWER_TIMEOUT):
            result = await operations.run(arguments, caller)  # type: ignore[arg-type]  # one of the table
    except (NotFoundError, NoSuchAppError) as error:
        return answer_error(404, str(error))
    except OperationError as error:
        return answer_error(422, str(error))
    except ConfigError as error:
        return answer_error(409, error.render())
    except ScalesocketError as error:
        return answer_error(409, str(error))
    except TimeoutError:
        return answer_error(503, f"not done within {ANSWER_TIMEOUT:.0f} s")
    return answer_json(await anyio.to_thread.run_sync(to_plain, result))


def to_plain(result: object) -> object:
    """Return a result as plain data. The metadata of rooms, which is JSON text, becomes a part of it."""
    if not isinstance(result, SiteStatus):
        return result
    record = msgspec.to_builtins(result, builtin_types=(bytes,))
    for app in record["apps"]:
        for room in app["rooms"]:
            room["metadata"] = None if room["metadata"] is None else msgspec.Raw(room["metadata"])
    return record
