"""The lists of rooms and clients, and what they answer about names that are not there."""

from typing import Any, Final

import pytest

from scalesocket.auth.identity import Identity, Role
from scalesocket.control.lists import ClientList, RoomEntry, RoomList
from scalesocket.control.messages import Clients, Request, Rooms, Status
from scalesocket.operations.lookup import NotFoundError, OperationError
from scalesocket.operations.table import OPERATIONS, STREAMS
from scalesocket.status import SiteStatus
from tests.auth.tokens import AUTH, bearer, token
from tests.operations.operating import run
from tests.rooms.acting import MemoryServe, in_memory

CAT: Final[dict[str, Any]] = {"command": ["cat"]}


@in_memory
async def test_rooms_are_listed_by_app_and_by_pattern(serve: MemoryServe) -> None:
    site = await serve(chat=CAT, game=CAT)
    for path in ("/chat/lobby", "/chat/lab", "/game/lobby"):
        ann = await site.join(path)
        await ann.say("hi")
        await ann.hear("hi")

    async def listed(request: Rooms) -> list[str]:
        found: RoomList = await run(site, request)
        return [f"{entry.app}/{entry.room}" for entry in found.rooms]

    assert await listed(Rooms()) == ["chat/lobby", "chat/lab", "game/lobby"]
    assert await listed(Rooms(app="chat")) == ["chat/lobby", "chat/lab"]
    assert await listed(Rooms(app="chat", room="lo*")) == ["chat/lobby"]
    assert await listed(Rooms(room="*b*y")) == ["chat/lobby", "game/lobby"]
    (entry,) = (await run(site, Rooms(app="game"))).rooms
    assert entry == RoomEntry(
        app="game", room="lobby", state="open", clients=1, pid=3, messages_in=1, messages_out=1, messages_dropped=0
    )


@in_memory
async def test_clients_are_listed_with_address_and_time_since_their_last_message(serve: MemoryServe) -> None:
    site = await serve(chat=CAT)
    ann, bob = await site.join("/chat/lobby"), await site.join("/chat/den")
    await ann.say("hi")
    await ann.hear("hi")
    await ann.hear_nothing(within=2.5)

    bob.identity = Identity(user="bob", method="token", roles=frozenset({Role.WRITE, Role.READ}))

    found: ClientList = await run(site, Clients())
    in_den = await run(site, Clients(app="chat", room="den"))

    listed = found.clients
    assert [(entry.room, entry.id) for entry in listed] == [("lobby", ann.id), ("den", bob.id)]
    assert [entry.id for entry in in_den.clients] == [bob.id]
    assert listed[0].address == "127.0.0.1:4321"
    assert [(entry.user, entry.roles) for entry in listed] == [(None, ()), ("bob", ("read", "write"))]
    assert 2.5 <= listed[0].idle < 2.6


@in_memory
async def test_clients_are_listed_with_the_user_and_roles_of_their_token(serve: MemoryServe) -> None:
    site = await serve(chat={**CAT, "auth": {**AUTH, "anonymous": True}})
    await site.join("/chat/lobby", additional_headers=bearer(token("ann", roles=["read", "create"])))
    await site.join("/chat/lobby")

    listed: ClientList = await run(site, Clients(app="chat"))

    assert [(entry.user, entry.roles) for entry in listed.clients] == [("ann", ("read", "create")), (None, ("write",))]


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (Rooms(app="caht"), "there is no app 'caht' (did you mean 'chat'?)"),
        (Rooms(app="zzz"), "there is no app 'zzz' (one of: chat)"),
        (Clients(app="chat", room="loby"), "there is no open room 'loby' of chat (did you mean 'lobby'?)"),
        (Clients(app="chat", room="x*"), "no open room of chat matches 'x*'"),
    ],
)
def test_what_is_not_there_gets_a_clear_answer(request_: Request, answer: str) -> None:
    @in_memory
    async def scene(serve: MemoryServe) -> None:
        site = await serve(chat=CAT)
        await site.join("/chat/lobby")

        with pytest.raises(NotFoundError) as error:
            await run(site, request_)

        assert str(error.value) == answer

    scene()


@in_memory
async def test_a_stopping_room_is_listed(serve: MemoryServe) -> None:
    site = await serve(chat={"command": ["stubborn"], "stop_timeout": 2.0})
    async with await site.join("/chat/lobby") as ann:
        await ann.hear("stubborn")

    (entry,) = (await run(site, Rooms())).rooms

    assert (entry.state, entry.clients) == ("stopping", 0)


@in_memory
async def test_a_site_without_a_file_has_a_status_and_cannot_be_reloaded(serve: MemoryServe) -> None:
    site = await serve(chat=CAT)

    status = await run(site, Status())
    with pytest.raises(OperationError, match="no file"):
        await run(site, OPERATIONS["reload"].arguments())  # type: ignore[arg-type]

    assert isinstance(status, SiteStatus)
    assert serve.logged("operation failed")[0]["asked_by"] == "control socket, uid 0, pid 1"


def test_each_operation_has_the_name_of_its_request() -> None:
    requests = {**{name: operation.arguments for name, operation in OPERATIONS.items()}, **STREAMS}

    assert [request.__struct_config__.tag for request in requests.values()] == list(requests)
    assert set(requests.values()) == set(Request.__args__)  # type: ignore[attr-defined]
