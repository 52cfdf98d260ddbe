"""One answer made of those of all workers."""

from dataclasses import replace
from typing import Any, Final

import msgspec
import pytest

from scalesocket.config.model import App
from scalesocket.control.lists import ClientEntry, ClientList, RoomEntry, RoomList
from scalesocket.control.messages import Clients, Drain, Kick, Outcome, Request, Rooms, Say, SayOutcome, Stop, Tail
from scalesocket.operations.lookup import Certainty, NotFoundError, OperationError
from scalesocket.operations.table import OPERATIONS, STREAMS
from scalesocket.overview import RoomsSummary
from scalesocket.status import AppStatus, Counts, LastExit, RoomStatus, SiteStatus
from scalesocket.workers.link import LinkError, LinkLostError, LinkTimeoutError
from scalesocket.workers.merge import MERGES, fold_ended, merge_answers, merge_status, merge_summaries
from scalesocket.workers.merged_overview import Totals
from scalesocket.workers.site_messages import Missing, Ran

PONG: Final = App(name="pong", command=("pong",))
CHAT: Final = (App(name="chat", command=("cat",)),)
LOST: Final = LinkLostError("worker 2 has ended")
SLOW: Final = LinkTimeoutError("worker 2 did not answer within 30 s")
NO_LOBBY: Final = "there is no open room 'lobyb' of chat"


def ran(result: object) -> Ran:
    return Ran(result=msgspec.Raw(msgspec.msgpack.encode(result)))


def missing(text: str, certainty: Certainty = Certainty.NONE, near: str | None = None) -> Ran:
    return Ran(missing=Missing(text=text, certainty=certainty, word="lobyb", near=near))


def merge(request: Request, *answers: Ran | LinkError) -> Any:
    kind = Outcome if isinstance(request, Tail) else OPERATIONS[str(type(request).__struct_config__.tag)].result
    return merge_answers(request, answers, lambda raw: msgspec.msgpack.decode(raw, type=kind))


def entry(app: str, room: str) -> RoomEntry:
    return RoomEntry(app=app, room=room, state="open", clients=1, pid=1, messages_in=0, messages_out=0, messages_dropped=0)


def client(room: str, number: int) -> ClientEntry:
    return ClientEntry(app="chat", room=room, id=number, user=None, roles=(), address="", idle=0.0, unsent=0)


def app_status(name: str = "chat", *, rooms: tuple[str, ...] = (), **changes: Any) -> AppStatus:
    made = AppStatus(
        name=name,
        mount=f"/{name}",
        target="cat",
        rooms=tuple(RoomStatus(name=room, state="open", pid=1, connections=1, metadata=None, counts=Counts()) for room in rooms),
        connections=len(rooms),
        rooms_total=len(rooms),
        counts=Counts(connections_total=len(rooms)),
        backend_starts=len(rooms),
        backend_failures=0,
        backend_exits={},
        refusals={},
    )
    return replace(made, **changes)


def site_status(*apps: AppStatus, **changes: Any) -> SiteStatus:
    made = SiteStatus(
        apps=apps,
        connections=sum(app.connections for app in apps),
        is_draining=False,
        generation=1,
        applied_at=0.0,
        last_error=None,
        public_error=None,
        refusals={},
    )
    return replace(made, **changes)


def test_every_operation_of_rooms_has_a_way_to_merge_its_results() -> None:
    of_processes = {"status", "diff", "reload", "cluster-status", "cluster-drain", "cluster-forget"}

    assert set(MERGES) == {*OPERATIONS, *STREAMS} - of_processes


@pytest.mark.parametrize(
    ("request_", "answers", "merged"),
    [
        (Kick(app="chat", room="*", user="ann"), (ran(Outcome(rooms=1, clients=2)), missing("…")), Outcome(rooms=1, clients=2)),
        (
            Stop(app="chat", room="*", wait=1.0),
            (ran(Outcome(rooms=1, clients=2)), ran(Outcome(rooms=2, clients=0))),
            Outcome(rooms=3, clients=2),
        ),
        (Drain(), (ran(Outcome(rooms=0, clients=0)), ran(Outcome(rooms=1, clients=1)), LOST), Outcome(rooms=1, clients=1)),
        (
            Say(app="chat", room="*", text="hi"),
            (ran(SayOutcome(rooms=1, delivered=3, dropped=0)), missing("…"), ran(SayOutcome(rooms=1, delivered=0, dropped=1))),
            SayOutcome(rooms=2, delivered=3, dropped=1),
        ),
        (Tail(app="chat", room="*"), (missing("…"), ran(Outcome(rooms=2, clients=1))), Outcome(rooms=2, clients=1)),
        (
            Rooms(),
            (ran(RoomList(rooms=(entry("chat", "a"), entry("pong", "1")))), ran(RoomList(rooms=(entry("chat", "b"),))), LOST),
            RoomList(rooms=(entry("chat", "a"), entry("chat", "b"), entry("pong", "1"))),
        ),
        (
            Clients(),
            (ran(ClientList(clients=(client("a", 3), client("a", 1)))), ran(ClientList(clients=(client("b", 2),)))),
            ClientList(clients=(client("a", 3), client("a", 1), client("b", 2))),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, msgspec.Struct) else "",
)
def test_results_are_added_up(request_: Request, answers: tuple[Ran | LinkError, ...], merged: object) -> None:
    assert merge(request_, *answers) == merged


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ((missing(NO_LOBBY), missing(NO_LOBBY)), NO_LOBBY),
        (
            (missing(NO_LOBBY, near="lobby"), missing(NO_LOBBY, near="lob"), missing(NO_LOBBY)),
            f"{NO_LOBBY} (did you mean 'lobby'?)",
        ),
        (
            (missing(NO_LOBBY, near="lobby"), missing("the room is stopping already", Certainty.ROOM_IS_STOPPING)),
            "the room is stopping already",
        ),
        (
            (missing("there is no client 7 in chat/lobyb", Certainty.NO_SUCH_CLIENT), missing(NO_LOBBY, near="lobby")),
            "there is no client 7 in chat/lobyb",
        ),
        ((missing(NO_LOBBY), LOST, missing(NO_LOBBY)), f"{NO_LOBBY} (worker 1 has ended, and its rooms, too)"),
        ((LOST, LOST, missing(NO_LOBBY)), f"{NO_LOBBY} (workers 0, 1 have ended, and their rooms, too)"),
    ],
)
def test_nothing_is_found_only_if_no_worker_has_it(answers: tuple[Ran | LinkError, ...], text: str) -> None:
    with pytest.raises(NotFoundError) as raised:
        merge(Kick(app="chat", room="lobyb", id=7), *answers)

    assert str(raised.value) == text


@pytest.mark.parametrize(
    ("request_", "answers", "text"),
    [
        (
            Kick(app="c", room="r", code=1),
            (Ran(error="invalid close code 1"), Ran(error="invalid close code 1")),
            "invalid close code 1",
        ),
        (Say(app="c", room="r", text="x"), (missing("…"), Ran(error="not routed")), "not routed"),
        (
            Say(app="c", room="*", text="x"),
            (ran(SayOutcome(rooms=1, delivered=0, dropped=0)), Ran(error="not routed"), Ran(error="not routed")),
            "worker 1, 2: not routed (said in the other workers: 1 room)",
        ),
        (Stop(app="c", room="*"), (ran(Outcome(rooms=2, clients=0)), SLOW), f"{SLOW} (done in the other workers: 2 rooms)"),
        (Rooms(), (ran(RoomList(rooms=())), SLOW), str(SLOW)),
        (Rooms(), (LOST, LOST), "no worker is running at the moment (try again)"),
    ],
)
def test_a_failure_says_what_the_other_workers_have_done(
    request_: Request, answers: tuple[Ran | LinkError, ...], text: str
) -> None:
    with pytest.raises(OperationError) as raised:
        merge(request_, *answers)

    assert (str(raised.value), type(raised.value)) == (text, OperationError)


def test_a_status_has_the_rooms_and_sums_of_all_workers_and_the_edits_of_the_supervisor() -> None:
    early, late = (LastExit(how="1", at=at, room="r", line=None) for at in (1.0, 2.0))
    one = site_status(
        app_status(rooms=("a", "b"), last_exit=late, backend_exits={"1": 1}, refusals={"origin": 1}, is_drained=True),
        app_status("pong"),
        refusals={"host": 1},
    )
    two = site_status(
        app_status(rooms=("c",), last_exit=early, backend_exits={"1": 2, "0": 1}, refusals={"origin": 2}),
        app_status("new"),  # it has applied an edit that the others have not
        refusals={"host": 2},
        generation=2,
    )
    base = site_status(generation=7, last_error="wrong", refusals={"admin_no_token": 1})

    status = merge_status(base, [PONG, *CHAT], [one, two], ended=None, workers=())

    pong, chat, new = status.apps
    assert (pong.name, new.name) == ("pong", "new")
    assert [room.name for room in chat.rooms] == ["a", "b", "c"]
    assert (chat.connections, chat.rooms_total, chat.counts.connections_total, chat.backend_starts) == (3, 3, 3, 3)
    assert (chat.last_exit, chat.backend_exits, chat.refusals, chat.is_drained) == (late, {"1": 3, "0": 1}, {"origin": 3}, True)
    assert (status.connections, status.generation, status.last_error) == (3, 7, "wrong")
    assert status.refusals == {"host": 3, "admin_no_token": 1}


def test_no_counter_falls_when_workers_end() -> None:
    totals = Totals()
    totals.note(0, 0, site_status(app_status(rooms=("a",))), ["chat"])
    totals.note(0, 0, site_status(app_status(rooms=("a", "b")), refusals={"host": 1}), ["chat"])
    totals.note(0, 1, site_status(app_status(rooms=("c",))), ["chat"])  # of its successor
    totals.note_ended(0)
    totals.note_ended(0)

    status = merge_status(site_status(), CHAT, [site_status(app_status(rooms=("d",)))], ended=totals.ended, workers=())

    (chat,) = status.apps
    assert [room.name for room in chat.rooms] == ["d"]
    assert (chat.connections, chat.rooms_total, chat.counts.connections_total) == (1, 4, 4)
    assert (status.connections, status.refusals) == (1, {"host": 1})


def test_apps_stay_visible_while_no_worker_runs_and_removed_ones_do_not() -> None:
    ended = fold_ended(None, site_status(app_status(rooms=("a",), is_drained=True), app_status("old")))

    status = merge_status(site_status(), CHAT, [], ended=ended, workers=())

    (chat,) = status.apps
    assert (chat.rooms, chat.rooms_total, chat.is_drained) == ((), 1, False)


def test_an_app_that_no_worker_knows_yet_has_no_rooms() -> None:
    status = merge_status(site_status(), [PONG, *CHAT], [site_status(app_status(rooms=("a",)))], ended=None, workers=())

    pong, chat = status.apps
    assert (pong.name, pong.mount, pong.target, pong.rooms, pong.rooms_total) == ("pong", "/pong", "pong", (), 0)
    assert chat.rooms_total == 1


def test_an_app_that_is_removed_and_added_again_counts_anew() -> None:
    totals = Totals()
    totals.note(0, 0, site_status(app_status(rooms=("a",)), app_status("pong", rooms=("1",))), ["chat", "pong"])
    totals.note_ended(0)
    totals.note(0, 1, site_status(app_status(rooms=("b",)), app_status("pong", rooms=("2",))), ["chat", "pong"])

    totals.keep_only(["chat"])
    totals.note(1, 0, site_status(app_status("pong", rooms=("3",))), ["chat"])  # from before the edit
    totals.note_ended(0)
    totals.note_ended(1)

    status = merge_status(site_status(), [*CHAT, PONG], [], ended=totals.ended, workers=())
    assert [(app.name, app.rooms_total) for app in status.apps] == [("chat", 2), ("pong", 0)]


def test_summaries_show_the_fullest_rooms_of_all_workers() -> None:
    one = {"chat": RoomsSummary(number=2, clients=5, shown=(("a", 4), ("b", 1)))}
    two = {"chat": RoomsSummary(number=1, clients=3, shown=(("c", 3),))}

    merged = merge_summaries(["chat", "gone"], [one, two], shown=2)

    assert merged["chat"] == RoomsSummary(number=3, clients=8, shown=(("a", 4), ("c", 3)))
    assert merged["gone"].number == 0
