"""The keys of clients' objects that are removed, in any spelling."""

import json
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.config.model import App
from scalesocket.wire.batch import ClientId
from scalesocket.wire.frames import Opcode
from scalesocket.wire.json_routing import CONTROL_KEYS, SERVER_KEYS, JsonEncoder

ANN: Final = ClientId(7)
OTHERS: Final = (
    "a",
    "",
    "from",
    "_",
    "_x",
    "_From",
    "_event2",
    "__to",
    "_to ",
    "_to\0",
    "_tö",
    "ｆrom",
    "😀",
    '"_event":1',
    "\\u005fto",
)
"""Keys without a meaning for the server."""


def read_by_program(
    *texts: str, keys: Iterable[str] = (), delimiters: str = "\n", end: str = "\n"
) -> list[list[tuple[str, object]]]:
    """Return the records that a program reads, each as its top-level pairs."""
    encoder = JsonEncoder(delimiters, end.encode(), keys)
    written, drops = encoder.encode(ANN, [(Opcode.TEXT, text.encode()) for text in texts])
    assert not drops
    return [json.loads(record, object_pairs_hook=list) for record in written.decode().split(end)[:-1]]


def spelled(word: str) -> st.SearchStrategy[str]:
    """A key in quotes, with each character as it is or escaped."""
    escapes = {'"': ['\\"'], "\\": ["\\\\"], "/": ["\\/"]}

    def spellings(character: str) -> Sequence[str]:
        units = character.encode("utf-16-be").hex(" ", 2).split()
        escaped = ["".join(f"\\u{unit}" for unit in units), "".join(f"\\u{unit.upper()}" for unit in units)]
        if character in escapes:
            return escapes[character] + escaped
        return escaped if character < " " else [character, character, *escaped]

    return st.tuples(*(st.sampled_from(spellings(character)) for character in word)).map("".join)


keys = st.sampled_from([*sorted(SERVER_KEYS | CONTROL_KEYS), *OTHERS]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=4
)
spaces = st.sampled_from(["", "", " ", "\n", "\t \r\n"])
values = st.sampled_from(
    ["null", "true", "7", "1e999", "-0.0", '"_event"', "[]", '[{"_from":1}]', '{"_to":2,"_event":{"_close":3}}']
)


@st.composite
def objects(draw: st.DrawFn) -> str:
    """A JSON object with any keys, repeated, in any spelling, with any whitespace."""
    pairs = draw(st.lists(st.tuples(keys.flatmap(spelled), values, spaces, spaces, spaces), max_size=6))
    inner = ",".join(f'{one}"{key}"{two}:{three}{value}' for key, value, one, two, three in pairs)
    return draw(spaces) + "{" + inner + (draw(spaces) if pairs else "") + "}" + draw(spaces)


@given(texts=st.lists(objects(), min_size=1, max_size=3), allowed=st.sets(st.sampled_from(sorted(CONTROL_KEYS))))
@pytest.mark.parametrize(("delimiters", "end"), [("\n", "\n"), ("\0", "\0"), ("\n;é", ";")])
def test_programs_never_read_a_key_that_clients_may_not_set(
    texts: list[str], allowed: set[str], delimiters: str, end: str
) -> None:
    records = read_by_program(*texts, keys=allowed, delimiters=delimiters, end=end)

    taken_out = (SERVER_KEYS | CONTROL_KEYS) - allowed
    for pairs, text in zip(records, texts, strict=True):
        sent = dict(json.loads(text, object_pairs_hook=list))
        assert [value for key, value in pairs if key == "_from"] == [7]
        assert not {key for key, _ in pairs} & (taken_out - {"_from"})
        assert dict(pairs) == {key: value for key, value in sent.items() if key not in taken_out} | {"_from": 7}


@pytest.mark.parametrize("key", sorted(SERVER_KEYS | CONTROL_KEYS))
def test_every_spelling_of_a_key_is_removed(key: str) -> None:
    forms = [(character, f"\\u{ord(character):04x}", f"\\u{ord(character):04X}") for character in key]
    spellings = {"".join(letters) for letters in product(*forms)}

    records = read_by_program(*(f'{{"{spelling}":1,"a":2}}' for spelling in spellings))

    assert all(pairs == [("_from", 7), ("a", 2)] for pairs in map(as_tuples, records))


@pytest.mark.parametrize("key", sorted(CONTROL_KEYS))
def test_allowed_keys_stay_and_the_others_are_removed(key: str) -> None:
    text = "{" + ",".join(f'"{each}":5' for each in sorted(SERVER_KEYS | CONTROL_KEYS)) + "}"

    [pairs] = read_by_program(text, keys=[key])

    assert as_tuples(pairs) == [("_from", 7), (key, 5)]


def test_an_object_with_allowed_keys_only_is_passed_on_unchanged() -> None:
    encoder = JsonEncoder("\n", b"\n", ["_to", "_cache"])

    written, _ = encoder.encode(ANN, [(Opcode.TEXT, rb'{"_to" : 5, "n": 1.50,"\u005fcache":true, "_to":6}')])

    assert written == rb'{"_from":7,"_to" : 5, "n": 1.50,"\u005fcache":true, "_to":6}' + b"\n"


def test_the_site_file_and_routing_have_the_same_keys() -> None:
    [words, *_] = get_args(App.model_fields["client_keys"].annotation)

    assert set(get_args(words)) == CONTROL_KEYS


def as_tuples(pairs: Iterable[Sequence[object]]) -> list[tuple[object, ...]]:
    return [tuple(pair) for pair in pairs]
