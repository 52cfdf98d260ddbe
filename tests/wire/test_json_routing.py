import json
import math
import time
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.wire.batch import Batch, ClientId
from scalesocket.wire.frames import Opcode
from scalesocket.wire.json_routing import (
    CLOSE_WITHOUT_TO,
    CUT_BY_DELIMITER,
    NOT_AN_OBJECT,
    UNREADABLE,
    WRONG_ADDRESS,
    WRONG_CLOSE,
    WRONG_META,
)
from scalesocket.wire.routing import CloseClients, Drop, Metadata, Routed, make_encoder, make_router
from tests.wire.cuts import cut, every_cut

MiB = 1024 * 1024
ANN = ClientId(7)
EVERYONE = (None, frozenset(), None)


def route(*records: bytes | str) -> list[Routed]:
    lines = [record.encode() if isinstance(record, str) else record for record in records]
    return list(make_router("json", max_record=1 * MiB).route(b"".join(line + b"\n" for line in lines)))


def addresses(routed: Iterable[Routed]) -> list[object]:
    """Return payloads and address of each batch, and other values unchanged."""
    return [
        ([payload.decode() for payload in it.payloads], it.to, it.exclude, it.cache) if isinstance(it, Batch) else it
        for it in routed
    ]


# --- From the backend: _to and _except


@pytest.mark.parametrize(
    ("record", "to", "exclude"),
    [
        ('{"_to": 5}', {5}, set()),
        ('{"_to": [5, 6, 5]}', {5, 6}, set()),
        ('{"_to": 0}', set(), set()),
        ('{"_to": []}', set(), set()),
        ('{"_to": [0, 5]}', {5}, set()),
        ('{"_to": null}', None, set()),
        ('{"_to": 4294967295}', {4294967295}, set()),
        ('{"_except": 5}', None, {5}),
        ('{"_except": [5, 6]}', None, {5, 6}),
        ('{"_except": null}', None, set()),
        ('{"_except": 0}', None, set()),
        ('{"_to": [5, 6], "_except": 6}', {5}, set()),
        ('{"_to": 5, "_except": [5]}', set(), set()),
        ('{"_to": null, "_except": [5]}', None, {5}),
        (r'{"\u005fto": 5}', {5}, set()),
        (r'{"_\u0074\u006F": 5}', {5}, set()),
        (' {"a":{"_to":9},"_to":5} ', {5}, set()),
        ('{"a":{"_to":9}}', None, set()),
        ('{"_to":6,"_to":5}', {5}, set()),
    ],
)
def test_to_and_except_choose_the_recipients(record: str, to: set[int] | None, exclude: set[int]) -> None:
    assert addresses(route(record)) == [([record], None if to is None else frozenset(to), frozenset(exclude), None)]


@pytest.mark.parametrize("key", ["_to", "_except"])
@pytest.mark.parametrize(
    "value",
    ['"5"', "true", "false", "5.0", "-1", "4294967296", "1e3", "1e999", "{}", "[null]", '["5"]', "[[5]]", "[true]", "9" * 5000],
)
def test_a_message_with_an_invalid_address_is_sent_to_nobody(key: str, value: str) -> None:
    record = f'{{"{key}": {value}, "secret": 1}}'

    assert addresses(route("before", record, "after")) == [(["before"], *EVERYONE), WRONG_ADDRESS, (["after"], *EVERYONE)]


@pytest.mark.parametrize(
    "record",
    [
        "hello",
        "",
        '"_to"',
        '["_to", 5]',
        '{"_to": 5',
        "{'_to': 5, \"_to\": 5}",
        '{"_to": 5} {"_to": 6}',
        'the key "_to" takes an id',
        r"\u0041",
        "5",
        "null",
    ],
)
def test_output_that_is_not_a_json_object_is_sent_to_everyone(record: str) -> None:
    assert addresses(route(record)) == [([record], *EVERYONE)]


@pytest.mark.parametrize("value", ["NaN", "-Infinity", r'"\ud800"'])
def test_json_that_only_python_writes_does_not_make_a_message_public(value: str) -> None:
    record = f'{{"_to": 5, "x": {value}}}'

    assert addresses(route(record)) == [([record], frozenset({5}), frozenset(), None)]
    assert addresses(route(record.replace("5", '"5"'))) == [WRONG_ADDRESS]


def test_an_object_that_is_nested_too_deep_is_sent_to_nobody() -> None:
    depth = 500_000  # Python 3.14 reads more than 100,000

    assert addresses(route('{"_to": 5, "x": ' + "[" * depth + "]" * depth + "}")) == [UNREADABLE]


def test_consecutive_messages_for_the_same_clients_share_a_batch_in_order() -> None:
    one, two, three = '{"_to":1}', '{"_to":[1]}', '{"_to":2}'

    assert addresses(route("a", "b", one, two, three, "c", '{"_except":3}', '{"_cache":true}')) == [
        (["a", "b"], *EVERYONE),
        ([one, two], frozenset({1}), frozenset(), None),
        ([three], frozenset({2}), frozenset(), None),
        (["c"], *EVERYONE),
        (['{"_except":3}'], None, frozenset({3}), None),
        (['{"_cache":true}'], None, frozenset(), True),
    ]


def test_addresses_do_not_depend_on_where_chunks_end() -> None:
    records = ["grüße", '{"_to":1,"t":"é"}', '{"_except":[2],"x":1}', r'{"_t\u006f":3}', '{"_to":"4"}', "{}"]
    stream = "".join(record + "\n" for record in records).encode()
    expected = [
        (payload, *rest)
        for payloads, *rest in filter(lambda it: isinstance(it, tuple), addresses(route(*records)))
        for payload in payloads
    ]

    for chunks in every_cut(stream):
        router = make_router("json", max_record=1 * MiB)
        routed = [it for chunk in chunks for it in router.route(chunk)]
        received = [
            (payload, *rest)
            for payloads, *rest in filter(lambda it: isinstance(it, tuple), addresses(routed))
            for payload in payloads
        ]
        assert received == expected
        assert WRONG_ADDRESS in routed


# --- From the backend: _cache, _meta and _close


@pytest.mark.parametrize(("value", "cache"), [("true", True), ("false", False), ("null", None), ("1", None), ('"yes"', None)])
def test_cache_is_passed_to_the_history(value: str, cache: bool | None) -> None:
    record = f'{{"_cache": {value}}}'

    assert addresses(route(record)) == [([record], None, frozenset(), cache)]


def test_metadata_is_sent_to_nobody_and_keeps_every_other_key() -> None:
    record = '{"_meta": true, "foo": "bär", "big": 123456789012345678901234567890, "e": 1e400, "l": [ 1 ]}'

    assert addresses(route("a", record, "b")) == [
        (["a"], *EVERYONE),
        Metadata('{"foo":"bär","big":123456789012345678901234567890,"e":1e400,"l":[ 1 ]}'.encode()),
        (["b"], *EVERYONE),
    ]


@pytest.mark.parametrize("value", ["false", "null", "1", '"true"'])
def test_meta_other_than_true_is_an_ordinary_key(value: str) -> None:
    record = f'{{"_meta": {value}, "_to": 5}}'

    assert addresses(route(record)) == [([record], frozenset({5}), frozenset(), None)]


def test_metadata_must_be_valid_json() -> None:
    assert route('{"_meta": true, "x": NaN}') == [WRONG_META]


@pytest.mark.parametrize("code", [1000, 4000, 4399, 4500, 4999])
def test_a_close_command_is_not_sent(code: int) -> None:
    assert route(f'{{"_to": [3, 4], "_except": 4, "_close": {code}, "reason": "cheat"}}') == [
        CloseClients(frozenset({ClientId(3)}), code, "cheat")
    ]


def test_a_message_with_a_close_is_sent_before_the_close() -> None:
    record = '{"_to": 3, "_close": 4001, "t": "Kick", "reason": 5}'

    assert addresses(route("a", record, "b")) == [
        (["a"], *EVERYONE),
        ([record], frozenset({3}), frozenset(), None),
        CloseClients(frozenset({ClientId(3)}), 4001, ""),
        (["b"], *EVERYONE),
    ]


@pytest.mark.parametrize(
    "code", ["999", "1001", "1011", "3999", "4400", "4401", "4499", "5000", "true", '"4000"', "4000.0", "[4000]"]
)
def test_an_invalid_close_closes_nobody_and_is_counted(code: str) -> None:
    record = f'{{"_to": 3, "_close": {code}}}'

    assert addresses(route(record)) == [([record], frozenset({3}), frozenset(), None), WRONG_CLOSE]


def test_a_close_without_to_is_ignored_and_counted() -> None:
    record = '{"_close": 4000, "_except": 5}'

    assert addresses(route(record)) == [([record], None, frozenset({5}), None), CLOSE_WITHOUT_TO]


def test_a_null_close_is_ignored() -> None:
    assert addresses(route('{"_close": null}')) == [(['{"_close": null}'], *EVERYONE)]


def test_binary_chunks_are_routed_by_their_keys() -> None:
    router = make_router("json", binary=True, max_record=1 * MiB)

    routed = [*router.route(b'{"_to":5}\n'), *router.route(b'\xff_to"')]

    assert [(it.opcode, it.to) for it in routed if isinstance(it, Batch)] == [
        (Opcode.BINARY, frozenset({5})),
        (Opcode.BINARY, None),
    ]


# --- To the backend

objects = st.dictionaries(
    st.text() | st.sampled_from(["_from", "_to", "a"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def encode(*texts: str, delimiter: str | None = None) -> tuple[bytes, list[object]]:
    written, drops = make_encoder("json", delimiter=delimiter).encode(ANN, [(Opcode.TEXT, text.encode()) for text in texts])
    return written, list(drops)


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ('{"a":1}', '{"_from":7,"a":1}'),
        ('{"a": 1,  "b": 2}  ', '{"_from":7,"a": 1,  "b": 2}  '),
        ("{}", '{"_from":7}'),
        (" { } ", '{"_from":7}'),
        (' {"a":1}', '{"_from":7,"a":1}'),
        ('{"_from":1}', '{"_from":7}'),
        ('{"a":1,"_from":{"b":[1]},"_from":2}', '{"_from":7,"a":1}'),
        (r'{"\u005ffrom":1}', '{"_from":7}'),
        (r'{"\u005F\u0066rom":1,"_from":2}', '{"_from":7}'),
        ('{"a":{"_from":1}}', '{"_from":7,"a":{"_from":1}}'),
        ('{"_from":1e999,"n":1e999}', '{"_from":7,"n":1e999}'),
        ('{"n":12345678901234567890123, "_from":0}', '{"_from":7,"n":12345678901234567890123}'),
        ('{\n  "a": [1,\r\n 2],\n "b": "c d\\n"\n}\n', '{"_from":7,"a":[1,2],"b":"c d\\n"}'),
        ('{"a":"\\"\\\\",\n"b":"} \\\\\\" {"}', '{"_from":7,"a":"\\"\\\\","b":"} \\\\\\" {"}'),
    ],
)
def test_from_is_set_and_the_rest_is_unchanged(text: str, record: str) -> None:
    assert encode(text) == (record.encode() + b"\n", [])


@given(value=objects, indent=st.none() | st.just(1), ascii_only=st.booleans())
def test_clients_can_set_every_key_but_those_of_the_server(
    value: dict[str, object], indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    try:
        text.encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair cannot be sent as text

    written, drops = encode(text)

    if drops:  # nor can it be written as an escape
        assert any(0xD800 <= ord(character) < 0xE000 for character in json.dumps(value, ensure_ascii=False))
    else:
        assert written.count(b"\n") == 1
        value.pop("_to", None)
        assert json.loads(written) == value | {"_from": 7}


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ('{"_event":"leave"}', '{"_from":7}'),
        ('{"t":"Leave","_event":"leave"}', '{"_from":7,"t":"Leave"}'),
        ('{"_event":"leave","n":1e999,"_event":[{"a":1}]}', '{"_from":7,"n":1e999}'),
        (r'{"\u005fevent":"leave","a":1}', '{"_from":7,"a":1}'),
        (r'{"_\u0065v\u0065nt":1,"\u005F\u0065\u0076\u0065\u006E\u0074":2,"a":1}', '{"_from":7,"a":1}'),
        ('{"a":{"_event":"leave"},"b":[{"_event":1}]}', '{"_from":7,"a":{"_event":"leave"},"b":[{"_event":1}]}'),
        ('{"a":"_event","_Event":1,"_events":2,"event":3}', '{"_from":7,"a":"_event","_Event":1,"_events":2,"event":3}'),
    ],
)
def test_clients_cannot_set_event(text: str, record: str) -> None:
    assert encode(text) == (record.encode() + b"\n", [])


@given(st.lists(st.sampled_from(["_from", r"\u005ffrom", r"_\u0066rom", r"\u005Ff\u0072om", "a", "from"]), max_size=5))
def test_no_spelling_of_from_forges_a_sender(keys: list[str]) -> None:
    written, _ = encode("{" + ",".join(f'"{key}":{at}' for at, key in enumerate(keys)) + "}")

    pairs = json.loads(written, object_pairs_hook=list)
    assert [value for key, value in pairs if key == "_from"] == [7]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[1]",
        '"a"',
        "5",
        "null",
        "{",
        '{"a":1} x',
        '{"a":1}{"b":2}',
        '{"a":NaN}',
        "{'a':1}",
        '{"a":1,}',
        '{"a":"\n"}',
        "\ufeff{}",
        '{"a":' + "[" * 100_000,
    ],
)
def test_messages_that_are_not_json_objects_are_dropped_and_the_others_are_not(text: str) -> None:
    assert encode('{"a":1}', text, '{"b":2}') == (b'{"_from":7,"a":1}\n{"_from":7,"b":2}\n', [NOT_AN_OBJECT])


def test_a_message_is_one_record_with_any_delimiters() -> None:
    assert encode('{"a;":"b;\n",\n"c":"d\\;"}', delimiter=";") == (b"", [NOT_AN_OBJECT])
    assert encode('{"a;":";;b",\n"c":"😀"}', delimiter=";😀") == (
        rb'{"_from":7,"a\u003b":"\u003b\u003bb","c":"\ud83d\ude00"};',
        [],
    )
    assert encode('{"a":1,"b":2}', delimiter=",") == (b"", [CUT_BY_DELIMITER])
    assert encode('{"a":"b\\n"}', delimiter="n") == (b"", [CUT_BY_DELIMITER])
    assert encode('{"a":\n1}', delimiter="\0") == (b'{"_from":7,"a":\n1}\0', [])


@given(value=objects, places=st.lists(st.integers(0)))
def test_messages_come_back_from_a_backend_that_echoes_its_input(value: dict[str, object], places: list[int]) -> None:
    value.pop("_to", None)
    written, drops = encode(json.dumps(value))
    router = make_router("json", max_record=1 * MiB)

    received = [
        payload
        for chunk in cut(written, places)
        for it in router.route(chunk)
        if isinstance(it, Batch)
        for payload in it.payloads
    ]

    assert [json.loads(payload) for payload in received] == ([] if drops else [value | {"_from": 7}])


def test_from_is_set_in_binary_messages_and_their_bytes_are_unchanged() -> None:
    encoder = make_encoder("json", binary=True)

    assert encoder.encode(ANN, [(Opcode.BINARY, b'{"a":"\xff",\n"b":1}')]) == (b'{"_from":7,"a":"\xff","b":1}', [])
    assert encoder.encode(ANN, [(Opcode.BINARY, b'{"_from":1,"\xff":1}')]) == (b"", [NOT_AN_OBJECT])


@pytest.mark.parametrize(("message", "drop"), [(b"x", NOT_AN_OBJECT), (b'{";":1e400}', CUT_BY_DELIMITER)])
def test_messages_are_dropped_in_linear_time(message: bytes, drop: Drop) -> None:
    # If the list of drops were copied for each message, this would take a minute.
    encoder = make_encoder("json", delimiter=";e")
    started = time.process_time()

    _, drops = encoder.encode(ANN, [(Opcode.TEXT, message)] * 100_000)

    assert time.process_time() - started < 5
    assert drops == [drop] * 100_000


def test_a_join_message_is_one_record() -> None:
    encoder = make_encoder("json")

    assert encoder.encode_text(ANN, b'{"t":"Join","_from":7}') == b'{"t":"Join","_from":7}\n'
    assert encoder.encode_text(ANN, b"client 7 came") == b"client 7 came\n"


def test_floats_keep_all_digits() -> None:
    written, _ = encode('{"pi":3.141592653589793238462643383279,"_from":0}')

    assert b"3.141592653589793238462643383279" in written
    assert math.isclose(json.loads(written)["pi"], math.pi)
