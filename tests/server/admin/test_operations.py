"""The operations on the site over HTTP, and their description."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from scalesocket.operations.table import MAX_TAILS, OPERATIONS
from scalesocket.server.admin import tail
from scalesocket.server.admin.reference import render_reference
from tests.conftest import capture_all_logs
from tests.server.admin.conftest import AdminSite

NESTED = b"[" * 20_000 + b"]" * 20_000
PAGE = Path(__file__).parents[3] / "docs/admin-api.md"

pytestmark = pytest.mark.anyio


async def test_an_operation_that_reads_takes_its_arguments_from_the_query(admin: AdminSite) -> None:
    async with await admin.general.join("/chat/lobby"), await admin.general.join("/hidden/vault"):
        everything = (await admin.http.get("/admin/rooms")).json()["rooms"]
        some = (await admin.http.get("/admin/rooms", params={"app": "hidden", "room": "v*"})).json()["rooms"]
        clients = (await admin.http.get("/admin/clients", params={"app": "chat"})).json()["clients"]

    assert [(room["app"], room["room"], room["clients"]) for room in everything] == [("chat", "lobby", 1), ("hidden", "vault", 1)]
    assert [room["room"] for room in some] == ["vault"]
    assert [(client["app"], client["room"]) for client in clients] == [("chat", "lobby")]


async def test_an_operation_that_changes_something_takes_its_arguments_from_the_body(admin: AdminSite) -> None:
    ann = await admin.general.join("/chat/lobby")
    (client,) = (await admin.http.get("/admin/clients")).json()["clients"]

    with capture_all_logs() as events:
        said = await admin.http.post("/admin/say", json={"app": "chat", "room": "lobby", "text": "closing soon"})
        kicked = await admin.http.post("/admin/kick", json={"app": "chat", "room": "lobby", "id": client["id"], "reason": "spam"})
        again = await admin.http.post("/admin/kick", json={"app": "chat", "room": "lobby", "id": client["id"]})

    await ann.hear("closing soon")
    assert await ann.wait_closed() == (4403, "spam")
    assert (said.status_code, kicked.json(), again.status_code) == (200, {"rooms": 1, "clients": 1}, 404)
    asked = [event["asked_by"].rpartition(":")[0] for event in events if event["event"] == "operation"]
    assert asked == ["admin API, 127.0.0.1"] * 2
    assert "closing soon" not in str([event for event in events if event["event"] == "operation"])


async def test_a_response_waits_for_the_end_of_rooms_if_it_is_asked_to(admin: AdminSite) -> None:
    ann = await admin.general.join("/chat/lobby")

    stopped = await admin.http.post("/admin/stop", json={"app": "chat", "room": "lobby", "wait": 10})
    wrong = await admin.http.post("/admin/drain", json={"wait": 7200})

    assert stopped.json() == {"rooms": 1, "clients": 1, "pending": 0}
    assert (await admin.http.get("/admin/rooms")).json() == {"rooms": []}
    assert await ann.wait_closed() == (1001, "the room was stopped")
    assert (wrong.status_code, wrong.json()) == (422, {"error": "invalid time to wait: 7200 s (0 to 3600 s)"})


async def test_the_status_has_the_metadata_of_rooms_as_json(admin: AdminSite) -> None:
    async with await admin.general.join("/chat/lobby"):
        admin.general.gateway.pools["chat"].rooms["lobby"]._delivery.metadata = b'{"map": 1}'

        status = (await admin.http.get("/admin/status")).json()

    assert status["apps"][0]["rooms"][0]["metadata"] == {"map": 1}


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/admin/rooms?app=chta", 404, "there is no app 'chta' (did you mean 'chat'?)"),
        ("GET", "/admin/rooms?app=chat&room=x", 404, "there is no open room 'x' of chat"),
        ("GET", "/admin/rooms?romm=x", 422, "object contains unknown field `romm`"),
        ("GET", "/admin/rooms?command=reload", 422, "the arguments are not an object of the fields that /api/openapi.json lists"),
        ("GET", "/admin/nothing", 404, "not found"),
        ("GET", "/admin/reload", 405, "method not allowed (use POST)"),
        ("POST", "/admin/rooms", 405, "method not allowed (use GET, HEAD)"),
        ("POST", "/admin/reload", 422, "this site has no file to read"),
    ],
)
async def test_errors_say_what_is_wrong(admin: AdminSite, method: str, path: str, status: int, error: str) -> None:
    answer = await admin.http.request(method, path)

    assert (answer.status_code, answer.json()) == (status, {"error": error})


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"dry_run": "yes"}', "expected `bool`, got `str` - at `$.dry_run`"),
        (b'{"dry-run": true}', "object contains unknown field `dry-run`"),
        (b"[]", "the arguments are not an object of the fields that /api/openapi.json lists"),
        (b"{", "the body is not JSON: Input data was truncated"),
        (NESTED, "the body is not JSON: maximum recursion depth exceeded while deserializing an object"),
    ],
)
async def test_wrong_arguments_in_a_body_are_422(admin: AdminSite, body: bytes, error: str) -> None:
    answer = await admin.http.post("/admin/reload", content=body)

    assert (answer.status_code, answer.json()) == (422, {"error": error})


async def test_a_long_body_is_refused(admin: AdminSite) -> None:
    assert (await admin.http.post("/admin/reload", content=b" " * 100_000)).status_code == 413


async def test_a_change_is_logged_with_who_asked_for_it(admin: AdminSite) -> None:
    with capture_all_logs() as events:
        await admin.http.post("/admin/reload", json={"dry_run": True})

    (event,) = [event for event in events if event["event"] == "operation failed"]
    assert event["operation"] == "reload"
    assert event["asked_by"].startswith("admin API, 127.0.0.1:")


async def test_the_description_lists_every_operation_with_its_arguments(admin: AdminSite) -> None:
    described = (await admin.http.get("/api/openapi.json")).json()

    assert described["openapi"] == "3.1.0"
    assert set(described["paths"]["/admin/tail"]) == {"get"}
    for name, operation in OPERATIONS.items():
        (method,) = described["paths"][f"/admin/{name}"]
        found = described["paths"][f"/admin/{name}"][method]
        assert method == ("post" if operation.changes else "get")
        if operation.changes:
            fields = set(found["requestBody"]["content"]["application/json"]["schema"]["properties"])
        else:
            fields = {parameter["name"] for parameter in found["parameters"]}
        assert fields == set(operation.arguments.__struct_fields__)
        assert found["summary"].endswith(".")
        assert "200" in found["responses"]


async def read_events(lines: AsyncIterator[str], number: int) -> list[tuple[str, Any]]:
    """Read so many server-sent events: their kind, and their data."""
    events: list[tuple[str, Any]] = []
    kind = "message"
    with anyio.fail_after(10):
        while len(events) < number:
            line = await anext(lines)
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                events.append((kind, json.loads(line.removeprefix("data: "))))
                kind = "message"
    return events


async def test_a_tail_streams_messages_until_the_room_ends(admin: AdminSite) -> None:
    ann = await admin.general.join("/hidden/vault")
    with capture_all_logs() as logged:
        async with admin.http.stream("GET", "/admin/tail", params={"app": "hidden", "room": "*"}) as response:
            lines = response.aiter_lines()
            began = await read_events(lines, 1)
            await ann.say("line one\nline two")
            passed = await read_events(lines, 3)
            await ann.leave()
            ended = await read_events(lines, 2)
            rest = [line async for line in lines]

    assert response.headers["content-type"] == "text/event-stream"
    assert began == [("begin", {"rooms": 1, "clients": 1})]
    shown = [(kind, event["event"], event["room"], event["text"]) for kind, event in passed]
    assert shown == [
        ("message", "in", "vault", "line one\nline two"),
        ("message", "out", "vault", "line one"),
        ("message", "out", "vault", "line two"),
    ]
    assert ended[-1] == ("end", {})
    assert "".join(rest) == ""
    (event,) = [event for event in logged if event["event"] == "operation"]
    assert (event["operation"], event["asked_by"].rpartition(":")[0]) == ("tail", "admin API, 127.0.0.1")


async def test_a_tail_that_its_reader_closes_gives_its_place_to_another(admin: AdminSite) -> None:
    async with await admin.general.join("/chat/lobby"):
        where = {"app": "chat", "room": "lobby"}
        for _ in range(MAX_TAILS + 2):
            async with admin.http.stream("GET", "/admin/tail", params=where) as response:
                assert response.status_code == 200
            await admin.general.playground.until(lambda: admin.general.playground.service.operations._tails == 0)

        async with AsyncExitStack() as stack:
            for _ in range(MAX_TAILS):
                await stack.enter_async_context(admin.http.stream("GET", "/admin/tail", params=where))
            refused = await admin.http.get("/admin/tail", params=where)

    assert refused.status_code == 422
    assert "tails are open already" in refused.json()["error"]


async def test_a_silent_tail_sends_comments_and_ends_after_its_longest_time(
    admin: AdminSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "HEARTBEAT", 0.02)
    monkeypatch.setattr(tail, "LONGEST", 0.1)
    async with await admin.general.join("/chat/lobby"):
        with anyio.fail_after(10):
            answer = await admin.http.get("/admin/tail", params={"app": "chat", "room": "lobby"})

    assert "\n:\n" in answer.text
    assert answer.text.endswith("event: end\ndata: {}\n\n")


async def test_the_head_of_a_tail_opens_none(admin: AdminSite) -> None:
    async with await admin.general.join("/chat/lobby"):
        with anyio.fail_after(5):
            answer = await admin.http.head("/admin/tail", params={"app": "chat", "room": "lobby"})

        assert admin.general.playground.service.operations._tails == 0

    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")


async def test_a_tail_of_what_is_not_there_is_404(admin: AdminSite) -> None:
    answers = [await admin.http.get("/admin/tail", params=where) for where in ({"app": "x", "room": "*"}, {"app": "chat"})]

    assert [answer.status_code for answer in answers] == [404, 422]


def test_the_checked_in_page_is_the_generated_one() -> None:
    assert PAGE.read_text() == render_reference(), "run `make generate`"


async def test_the_description_refers_only_to_what_it_has(admin: AdminSite) -> None:
    described = (await admin.http.get("/api/openapi.json")).json()

    def references(value: object) -> set[str]:
        if isinstance(value, list):
            return {name for item in value for name in references(item)}
        if isinstance(value, dict):
            return {value["$ref"]} if "$ref" in value else references(list(value.values()))
        return set()

    schemas = described["components"]["schemas"]
    assert {name.removeprefix("#/components/schemas/") for name in references(described)} <= set(schemas)
