"""Routing: which clients receive what a backend sends, and what a backend receives from its clients."""

import asyncio
import json
import struct
from typing import Any, Final

import pytest

from tests.conftest import Serve
from tests.rooms.acting import Actor, MemoryPlayer, MemoryServe, in_memory

CAT: Final[dict[str, Any]] = {"command": ["cat"]}
QUIET: Final[dict[str, Any]] = {"join_message": "", "leave_message": ""}
# What clients say goes to the program as it is, and what the program says is routed: with `cat` a player plays the backend.
PUPPET: Final[dict[str, Any]] = {**CAT, "routing": {"client": "broadcast", "server": "json"}}


def record(**fields: object) -> str:
    return json.dumps(fields, separators=(",", ":"))


async def heard_as_json(player: MemoryPlayer) -> Any:
    return json.loads(await player.listen())


# --- json, from the backend


async def test_to_reaches_one_client_alone(serve: Serve) -> None:
    site = await serve(game=PUPPET)
    ann, bob, eve = [await site.join("/game/one") for _ in range(3)]

    await ann.say(record(_to=2, secret="for bob"))
    await ann.say("for all")

    await bob.hear(record(_to=2, secret="for bob"), "for all")
    await ann.hear("for all")
    await eve.hear("for all")


@in_memory
async def test_to_may_be_a_list_and_order_is_kept_for_each(serve: MemoryServe) -> None:
    site = await serve(game=PUPPET)
    ann, bob, eve = [await site.join("/game/one") for _ in range(3)]

    for message in (record(n=1), record(_to=[1, 3], n=2), record(_to=2, n=3), record(n=4), record(_to=[], n=5), record(n=6)):
        await ann.say(message)

    assert [(await heard_as_json(ann))["n"] for _ in range(4)] == [1, 2, 4, 6]
    assert [(await heard_as_json(bob))["n"] for _ in range(4)] == [1, 3, 4, 6]
    assert [(await heard_as_json(eve))["n"] for _ in range(4)] == [1, 2, 4, 6]


@in_memory
async def test_half_a_surrogate_pair_in_a_reason_costs_nothing_but_itself(serve: MemoryServe) -> None:
    """Python's `json` writes such, and a client may have it in its name: the close and all around it are carried out."""
    site = await serve(game=PUPPET)
    ann, bob = await site.join("/game/one"), await site.join("/game/one")

    await bob.say(record(_to=1, _close=4000, reason="kicked by \ud800!"))
    await bob.say("and on we play")

    assert await ann.wait_closed() == (4000, "kicked by ?!")
    await bob.hear("and on we play")
    await site.until(lambda: list(site.room("game", "one").clients) == [2])


@pytest.mark.parametrize("to", [0, [0], [99]])
@in_memory
async def test_a_message_to_absent_clients_reaches_none(serve: MemoryServe, to: object) -> None:
    site = await serve(game=PUPPET)
    ann = await site.join("/game/one")

    await ann.say(record(_to=to, n=1))
    await ann.say(record(_to=None, n=2))

    assert (await heard_as_json(ann))["n"] == 2


@pytest.mark.parametrize("to", ["1", True, 1.5, -1, {"id": 1}, ["1"], 2**32])
@in_memory
async def test_a_wrong_to_is_dropped_counted_and_logged_once(serve: MemoryServe, to: object) -> None:
    site = await serve(game=PUPPET)
    ann = await site.join("/game/one")

    await ann.say(record(_to=to, n=1))
    await ann.say(record(_to=to, n=2))
    await ann.say(record(n=3))

    assert (await heard_as_json(ann))["n"] == 3
    assert site.room("game", "one").counts.messages_dropped == 2
    assert len([entry for entry in serve.events if "not carried out" in entry["event"]]) == 1


@in_memory
async def test_except_reaches_everyone_else(serve: MemoryServe) -> None:
    site = await serve(game=PUPPET)
    ann, bob, eve = [await site.join("/game/one") for _ in range(3)]

    await ann.say(record(_except=1, n=1))
    await ann.say(record(_except=[1, 2], n=2))
    await ann.say(record(_to=[1, 2], _except=2, n=3))
    await ann.say("end")

    assert [json.loads(str(message))["n"] for message in (await ann.hear_until("end"))[:-1]] == [3]
    assert [json.loads(str(message))["n"] for message in (await bob.hear_until("end"))[:-1]] == [1]
    assert [json.loads(str(message))["n"] for message in (await eve.hear_until("end"))[:-1]] == [1, 2]


@in_memory
async def test_close_ends_those_clients_with_its_code_and_reason_after_what_was_sent_before(serve: MemoryServe) -> None:
    site = await serve(game=PUPPET)
    ann, bob = await site.join("/game/one"), await site.join("/game/one")

    await ann.say(record(n=1))
    await ann.say(record(_to=2, _close=4001, reason="you lost"))
    await ann.say(record(n=2))

    await bob.hear(record(n=1))
    assert await bob.wait_closed() == (4001, "you lost")
    await ann.hear(record(n=1), record(n=2))


@in_memory
async def test_a_close_with_more_in_it_is_a_message_too(serve: MemoryServe) -> None:
    site = await serve(game=PUPPET)
    ann = await site.join("/game/one")
    message = record(_to=1, _close=1000, score=42)

    await ann.say(message)

    await ann.hear(message)
    assert await ann.wait_closed() == (1000, "")


@pytest.mark.parametrize(
    "fields", [{"_close": 4001}, {"_to": 1, "_close": 1006}, {"_to": 1, "_close": "4001"}, {"_to": 1, "_close": 3000}]
)
@in_memory
async def test_a_close_without_to_or_with_another_code_closes_nobody(serve: MemoryServe, fields: dict[str, object]) -> None:
    site = await serve(game=PUPPET)
    ann = await site.join("/game/one")

    await ann.say(record(**fields))
    await ann.say("end")

    await ann.hear_until("end")
    assert site.room("game", "one").counts.messages_dropped == 1
    (told,) = [entry["event"] for entry in serve.events if "nobody was closed" in entry["event"]]
    assert told.startswith("not carried out: _close ")


async def test_meta_replaces_the_metadata_and_is_sent_to_nobody(serve: Serve) -> None:
    site = await serve(game=PUPPET)
    ann = await site.join("/game/one")

    await ann.say(record(_meta=True, round=1, players=["ann"]))
    await ann.say(record(_meta=True, round=2))
    await ann.say("end")

    await ann.hear("end")
    assert json.loads((await site.get("/game/api/one/metadata"))[1]) == {"round": 2}


@pytest.mark.parametrize("text", ["plain", "[1, 2]", "5", '{"_to": 2', "null", '"{}"'])
@in_memory
async def test_output_that_is_no_json_object_is_for_everyone(serve: MemoryServe, text: str) -> None:
    site = await serve(game=PUPPET)
    ann, bob = await site.join("/game/one"), await site.join("/game/one")

    await ann.say(text)

    await ann.hear(text)
    await bob.hear(text)


# --- json, to the backend


@in_memory
async def test_the_sender_is_named_and_cannot_be_forged(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "routing": "json", **QUIET})
    ann, bob = await site.join("/game/one"), await site.join("/game/one")

    for text in ('{"n":1}', '{"_from":1,"n":2}', '{"n":3,"_from":1,"_from":1}', '{"\\u005ffrom":1,"n":4}'):
        await bob.say(text)

    for number in range(1, 5):
        heard = str(await ann.listen())
        assert json.loads(heard) == {"_from": 2, "n": number}
        assert heard.count("from") == 1


@in_memory
async def test_a_client_message_that_is_no_json_object_is_dropped(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "routing": "json", **QUIET})
    ann = await site.join("/game/one")

    for text in ("rubbish", "[1]", "5", "{", ""):
        await ann.say(text)
    await ann.say('{"n":1}')

    assert await heard_as_json(ann) == {"_from": 1, "n": 1}
    assert site.room("game", "one").counts.messages_dropped == 5


@in_memory
async def test_json_on_many_lines_is_one_record(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "routing": "json", **QUIET})
    ann = await site.join("/game/one")

    await ann.say('{\n  "text": "a\\nb",\n  "n": 1\n}')

    assert await heard_as_json(ann) == {"_from": 1, "text": "a\nb", "n": 1}


@in_memory
async def test_a_client_cannot_address_close_or_describe_by_way_of_a_backend_that_repeats_it(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "routing": "json", **QUIET})
    ann, bob = await site.join("/game/one"), await site.join("/game/one")

    for text in ('{"_to":2,"n":1}', '{"_meta":true,"n":2}', r'{"_to":2,"\u005fclose":4001,"_cache":true,"_except":1,"n":3}'):
        await ann.say(text)

    for client in (ann, bob):
        assert [await heard_as_json(client) for _ in range(3)] == [{"_from": 1, "n": n} for n in (1, 2, 3)]
    assert site.room("game", "one").status().metadata is None


@in_memory
async def test_a_client_can_address_others_where_the_app_lets_it(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "routing": "json", **QUIET, "client_keys": ["_to"]})
    ann, bob = await site.join("/game/one"), await site.join("/game/one")

    await ann.say('{"_to":2,"_close":4001,"n":1}')

    assert await heard_as_json(bob) == {"_from": 1, "_to": 2, "n": 1}
    await ann.hear_nothing(within=0.05)


@in_memory
async def test_json_apps_get_every_join_and_leave(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "routing": "json"})
    ann = await site.join("/game/one")
    assert await heard_as_json(ann) == {"t": "Join", "_from": 1, "_event": "join"}

    bob = await site.join("/game/one")
    assert await heard_as_json(ann) == {"t": "Join", "_from": 2, "_event": "join"}
    assert await heard_as_json(bob) == {"t": "Join", "_from": 2, "_event": "join"}
    await bob.leave()

    assert await heard_as_json(ann) == {"t": "Leave", "_from": 2, "_event": "leave"}


@in_memory
async def test_a_client_cannot_pretend_to_be_an_event(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "routing": "json", **QUIET})
    ann = await site.join("/game/one")

    await ann.say('{"t":"Leave","_event":"leave"}')
    await ann.say(r'{"t":"Join","\u005fevent":"join","_event":"join","_from":5}')

    assert await heard_as_json(ann) == {"t": "Leave", "_from": 1}
    assert await heard_as_json(ann) == {"t": "Join", "_from": 1}


# --- Templates


@in_memory
async def test_templates_are_filled_in_with_a_client_s_particulars(serve: MemoryServe) -> None:
    template = "#ID in #ROOM by #QUERY_NAME from #QUERY_STRING"
    site = await serve(game={**CAT, "join_message": template})

    ann = await site.join("/game/one?name=ann%20lee")

    await ann.hear("1 in one by ann%20lee from name=ann%20lee")


@in_memory
async def test_a_client_cannot_break_out_of_a_json_template(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "join_message": '{"q":"#QUERY_STRING"}'})

    ann = await site.join('/game/one?","_to":99,"x":"')

    heard = await heard_as_json(ann)
    assert list(heard) == ["q"]


async def test_the_leave_message_is_the_last_input_of_a_backend(serve: Serve, tmp_path: Any) -> None:
    site = await serve(game={"command": ["tee", str(tmp_path / "said")], "leave_message": "bye #ID"})
    async with await site.join("/game/one") as ann:
        await ann.say("hello")
        await ann.hear("hello")

    await site.wait_no_rooms()

    assert (tmp_path / "said").read_text() == "hello\nbye 1\n"


# --- broadcast: text, binary, delimiters


@in_memory
async def test_text_is_passed_on_as_it_is_newlines_included(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    ann = await site.join("/game/one")

    await ann.say("one\ntwo")
    await ann.say("")

    await ann.hear("one", "two", "")


async def test_a_binary_app_passes_chunks(serve: Serve) -> None:
    site = await serve(game={**CAT, "binary": True})
    ann = await site.join("/game/one")

    await ann.say(b"\x00\xff\n\x00")

    await ann.hear(b"\x00\xff\n\x00")


@in_memory
async def test_each_of_several_delimiters_ends_a_record(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["printf", "foobar"], "delimiter": "bc"})

    ann = await site.join("/game/one")

    await ann.hear("foo", "ar")


@in_memory
async def test_nul_may_be_the_delimiter(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["printf", "foo\\0b\\nar\\0"], "delimiter": "\0"})

    ann = await site.join("/game/one")

    await ann.hear("foo", "b\nar")


@in_memory
async def test_a_carriage_return_goes_with_its_newline(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["printf", "one\\r\\ntwo\\n\\nthree"]})

    ann = await site.join("/game/one")

    await ann.hear("one", "two", "", "three")


@in_memory
async def test_output_that_is_not_utf8_is_mended_and_does_not_stall(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["printf", "bad \\377\\ngood\\n"]})

    ann = await site.join("/game/one")

    await ann.hear("bad \ufffd", "good")


@in_memory
async def test_a_record_longer_than_max_record_ends_the_room(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "max_record": 1000})
    ann = await site.join("/game/one")

    await ann.say("fine")
    await ann.say("x" * 1001)

    await ann.hear("fine")
    assert await ann.wait_closed() == (1011, "the backend sent a record longer than max_record")


# --- gwsocket


@pytest.mark.parametrize("byte_order", ["little", "big"])
async def test_gwsocket_keeps_kind_and_bounds_both_ways(serve: Serve, byte_order: str) -> None:
    site = await serve(game={**CAT, "routing": "gwsocket", "byte_order": byte_order})
    ann, bob = await site.join("/game/one"), await site.join("/game/one")

    await bob.say("text\nwith a newline")  # `cat` sends it back to whom it came from
    await bob.say(b"\x00\xff")
    await bob.say("")

    await bob.hear("text\nwith a newline", b"\x00\xff", "")
    await ann.hear_nothing(within=0.05)


@in_memory
async def test_gwsocket_id_0_is_everyone(serve: MemoryServe) -> None:
    async def script(actor: Actor) -> int:
        await actor.read()
        await actor.print(struct.pack("<III", 0, 1, 3) + b"all" + struct.pack("<III", 2, 2, 3) + b"bob")
        await actor.read()
        return 0

    site = await serve(programs={"script": script}, game={"command": ["script"], "routing": "gwsocket"})
    ann, bob = await site.join("/game/one"), await site.join("/game/one")

    await ann.say("go")

    await ann.hear("all")
    await bob.hear("all", b"bob")


@in_memory
async def test_a_wrong_gwsocket_header_ends_the_room_and_delivers_no_rubbish(serve: MemoryServe) -> None:
    async def script(actor: Actor) -> int:
        await actor.read()
        await actor.print(struct.pack("<III", 0, 1, 4) + b"fine" + struct.pack("<III", 0, 7, 4) + b"rubbish")
        await actor.read()
        return 0

    site = await serve(programs={"script": script}, game={"command": ["script"], "routing": "gwsocket"})
    ann = await site.join("/game/one")

    await ann.say("go")

    await ann.hear("fine")
    close_code, reason = await ann.wait_closed()
    assert close_code == 1011
    assert "header" in reason


@pytest.mark.parametrize(("byte_order", "header"), [("little", "<III"), ("big", ">III")])
@in_memory
async def test_gwsocket_headers_name_the_sender_in_byte_order(serve: MemoryServe, byte_order: str, header: str) -> None:
    routing = {"client": "gwsocket", "server": "broadcast"}
    site = await serve(game={**CAT, "routing": routing, "byte_order": byte_order})
    await site.join("/game/one")
    bob = await site.join("/game/one")

    await bob.say("hi")

    await asyncio.sleep(0.001)
    assert site.actors[0].taken == struct.pack(header, 2, 1, 2) + b"hi"


# --- History


@in_memory
async def test_a_new_client_receives_the_last_messages_oldest_first(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "history": {"size": 3}})
    ann = await site.join("/game/one")
    for number in range(5):
        await ann.say(str(number))
        await ann.hear(str(number))

    bob = await site.join("/game/one")
    await ann.say("live")

    await bob.hear("2", "3", "4", "live")
    await ann.hear("live")


@in_memory
async def test_a_new_client_receives_the_history_before_its_own_join(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "history": {"size": 10}, "join_message": "+#ID"})
    ann = await site.join("/game/one")
    await ann.hear("+1")

    bob = await site.join("/game/one")

    await bob.hear("+1", "+2")


@in_memory
async def test_history_holds_only_messages_for_everyone(serve: MemoryServe) -> None:
    site = await serve(game={**PUPPET, "history": {"size": 10}})
    ann = await site.join("/game/one")
    for message in (
        record(_to=1, private=1),
        record(_to=[1], private=2),
        record(_meta=True, x=1),
        record(_cache=False, fleeting=1),
        record(_except=1, n=1),
        record(n=2),
        "end",
    ):
        await ann.say(message)
    await ann.hear_until("end")

    bob = await site.join("/game/one")

    await bob.hear(record(_except=1, n=1), record(n=2), "end")


@in_memory
async def test_tagged_history_keeps_what_the_backend_tagged(serve: MemoryServe) -> None:
    site = await serve(game={**PUPPET, "history": {"size": 10, "keep": "tagged"}})
    ann = await site.join("/game/one")
    for message in (record(_cache=True, n=1), record(n=2), record(_cache=True, _to=1, n=3), "end"):
        await ann.say(message)
    await ann.hear_until("end")

    bob = await site.join("/game/one")
    await ann.say("live")

    await bob.hear(record(_cache=True, n=1), "live")


@in_memory
async def test_history_ends_with_its_room(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "history": {"size": 10}})
    async with await site.join("/game/one") as ann:
        await ann.say("forgotten")
        await ann.hear("forgotten")
    await site.wait_no_rooms()

    bob = await site.join("/game/one")

    await bob.hear_nothing(within=0.1)


@in_memory
async def test_persistent_history_outlives_the_room(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "history": {"size": 2, "persist": True}})
    for number in range(3):
        async with await site.join("/game/one") as ann:
            await ann.say(str(number))
            await ann.hear_until(str(number))
        await site.wait_no_rooms()

    bob = await site.join("/game/one")
    eve = await site.join("/game/two")

    await bob.hear("1", "2")
    await eve.hear_nothing(within=0.1)


async def test_persistent_history_has_the_last_output_of_a_room_that_was_still_ending(serve: Serve) -> None:
    slow = ["sh", "-c", "while read line; do echo $line; done; sleep 0.3; echo bye"]
    site = await serve(game={"command": slow, "history": {"size": 5, "persist": True}})
    ann = await site.join("/game/one")
    await ann.say("hello")
    await ann.hear("hello")
    await ann.leave()
    await site.until(lambda: not site.gateway.pools["game"].rooms)

    bob = await site.join("/game/one")  # its program starts when the other has ended

    await bob.hear("hello", "bye")
    await bob.say("mine")
    await bob.hear("mine")


@in_memory
async def test_persistent_history_is_kept_for_as_many_rooms_as_max_rooms_says(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "history": {"size": 2, "persist": True}, "max_rooms": 2})
    for room in ("one", "two", "three"):
        async with await site.join(f"/game/{room}") as ann:
            await ann.say(room)
            await ann.hear(room)
        await site.wait_no_rooms()

    two, one = await site.join("/game/two"), await site.join("/game/one")

    await two.hear("two")
    await one.hear_nothing(within=0.1)


@in_memory
async def test_persistent_history_of_the_least_recently_used_room_is_dropped_first(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "history": {"size": 2, "persist": True}, "max_rooms": 2})
    ann = await site.join("/game/lobby")
    for room in ("one", "two"):
        async with await site.join(f"/game/{room}") as bob:
            await bob.say(room)
            await bob.hear(room)
        await site.until(lambda: len(site.gateway.pools["game"].all_rooms) == 1)
    await ann.say("lobby")
    await ann.hear("lobby")
    await ann.leave()
    await site.wait_no_rooms()

    async with await site.join("/game/three"):
        pass
    await site.wait_no_rooms()
    eve, dan = await site.join("/game/lobby"), await site.join("/game/two")

    await eve.hear("lobby")
    await dan.hear_nothing(within=0.1)
