from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.rooms.history import History
from scalesocket.wire.batch import Batch, ClientId
from scalesocket.wire.frames import Opcode

SOME = frozenset({ClientId(1)})


def remember(*batches: Batch, size: int = 64, keep: Literal["all", "tagged"] = "all", max_bytes: int = 1024) -> History:
    history = History(size=size, keep=keep, max_bytes=max_bytes)
    for batch in batches:
        history.remember(batch)
    return history


def replayed(history: History) -> list[bytes]:
    return [payload for batch in history.replay() for payload in batch.payloads]


def test_other_bounds_keep_what_fits() -> None:
    history = History(size=5, keep="tagged", max_bytes=100)
    for number in range(5):
        history.remember(Batch([b"%d" % number], cache=True))

    history.apply(size=3, keep="tagged", max_bytes=2)

    assert [list(batch.payloads) for batch in history.replay()] == [[b"3", b"4"]]


def test_the_last_messages_are_replayed_oldest_first() -> None:
    history = remember(Batch([b"1", b"2"]), Batch([b"3"]), Batch([b"4", b"5"]), size=4)

    assert replayed(history) == [b"2", b"3", b"4", b"5"]


def test_a_batch_longer_than_the_history_leaves_its_end() -> None:
    assert replayed(remember(Batch([b"0"]), Batch([b"%d" % n for n in range(100)]), size=2)) == [b"98", b"99"]


def test_text_and_binary_keep_their_kind_and_order() -> None:
    history = remember(Batch([b"1"]), Batch([b"2", b"3"], Opcode.BINARY), Batch([b"4"]))

    assert [(batch.opcode, list(batch.payloads)) for batch in history.replay()] == [
        (Opcode.TEXT, [b"1"]),
        (Opcode.BINARY, [b"2", b"3"]),
        (Opcode.TEXT, [b"4"]),
    ]


def test_messages_to_named_clients_are_never_replayed() -> None:
    history = remember(
        Batch([b"to"], to=SOME), Batch([b"tagged"], to=SOME, cache=True), Batch([b"nobody"], to=frozenset()), Batch([b"all"])
    )

    assert replayed(history) == [b"all"]


def test_a_message_that_excluded_clients_is_replayed_to_every_new_one() -> None:
    history = remember(Batch([b"1"], exclude=SOME))

    assert [(list(batch.payloads), batch.to, batch.exclude) for batch in history.replay()] == [([b"1"], None, frozenset())]


@pytest.mark.parametrize(("keep", "kept"), [("all", [b"untagged", b"tagged"]), ("tagged", [b"tagged"])])
def test_tags_decide_what_is_kept(keep: Literal["all", "tagged"], kept: list[bytes]) -> None:
    history = remember(Batch([b"untagged"]), Batch([b"tagged"], cache=True), Batch([b"not"], cache=False), keep=keep)

    assert replayed(history) == kept


def test_the_oldest_go_when_the_bytes_are_used_up() -> None:
    history = remember(Batch([b"aaaa", b"bbbb"]), Batch([b"cc", b"", b"dddd"]), max_bytes=10)

    assert replayed(history) == [b"bbbb", b"cc", b"", b"dddd"]


def test_a_message_larger_than_the_history_is_left_out() -> None:
    assert replayed(remember(Batch([b"a", b"x" * 11, b"b"]), max_bytes=10)) == [b"a", b"b"]


def test_newcomers_between_two_messages_share_the_same_frames() -> None:
    history = remember(Batch([b"1"]))
    frames = history.replay()[0].frames

    assert history.replay()[0].frames is frames
    history.remember(Batch([b"2"]))
    assert replayed(history) == [b"1", b"2"]


def test_an_empty_history_replays_nothing() -> None:
    assert remember().replay() == []


@given(st.lists(st.lists(st.binary(max_size=12), min_size=1)), st.integers(1, 8), st.integers(1, 40))
def test_a_history_stays_within_its_bounds(batches: list[list[bytes]], size: int, max_bytes: int) -> None:
    kept = replayed(remember(*map(Batch, batches), size=size, max_bytes=max_bytes))

    fitting = [payload for batch in batches for payload in batch if len(payload) <= max_bytes]
    assert len(kept) <= size
    assert sum(map(len, kept)) <= max_bytes
    assert kept == fitting[len(fitting) - len(kept) :]
