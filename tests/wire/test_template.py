import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.wire.batch import ClientId
from scalesocket.wire.template import parse_template


def render(
    template: str,
    *,
    room: str = "lobby",
    remote_addr: str = "127.0.0.1:1234",
    query: str = "",
    delimiters: str | None = None,
) -> str:
    return parse_template(template, delimiters).render(ClientId(1), room, remote_addr, query).decode()


@pytest.mark.parametrize(
    ("template", "query", "message"),
    [
        ("test #ID #REMOTE_ADDR #QUERY_FOO", "foo=bar%20baz", "test 1 127.0.0.1:1234 bar%20baz"),
        (
            "test #REMOTE_ADDR #QUERY_STRING #QUERY_HACK",
            "remote_addr=x&string=y&hack=%23SOMETHING",
            "test 127.0.0.1:1234 remote_addr=x&string=y&hack=%23SOMETHING %23SOMETHING",
        ),
        ('{"t":"Join","_from":#ID}', "", '{"t":"Join","_from":1}'),
        ("#ROOM/#ID", "", "lobby/1"),
        ("no variables", "", "no variables"),
        ("#QUERY_STRING", "a=%C3%A9&b", "a=%C3%A9&b"),
        ("#QUERY_A", "a=+1&a=%22%0a2", "%22%0A2"),
        ("#QUERY_A|#QUERY_B", "a=&b", "|"),
        ("#QUERY_FIRST_#QUERY_LAST!", "first=ann&last=lee", "ann_lee!"),
        ("#QUERY_FIRST_NAME", "first=ann&first_name=anna", "anna"),
        ("#QUERY_USER-ID.", "user-id=5", "5."),
        ("hello #QUERY_NAME #NOBODY ##", "", "hello #QUERY_NAME #NOBODY ##"),
        ("", "", ""),
    ],
)
def test_variables_are_filled_in_as_the_original_does(template: str, query: str, message: str) -> None:
    assert render(template, query=query) == message


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ('{"room":"#ROOM","a":#ID}', {"room": 'x","_from":9,"y":"\n\\', "a": 1}),
        ('{"room":#ROOM}', {"room": 'x","_from":9,"y":"\n\\'}),
        ('["\\"#ROOM\\"", #ROOM]', ['"x","_from":9,"y":"\n\\"', 'x","_from":9,"y":"\n\\']),
        ('"#ROOM"', 'x","_from":9,"y":"\n\\'),
        ('{"#ROOM": 1}', {'x","_from":9,"y":"\n\\': 1}),
    ],
)
def test_values_cannot_change_the_structure_of_json(template: str, message: object) -> None:
    rendered = render(template, room='x","_from":9,"y":"\n\\')

    assert json.loads(rendered) == message
    assert "\n" not in rendered


@pytest.mark.parametrize(
    ("value", "written"),
    [("5", 5), ("-1.5e3", -1500.0), ("007", "007"), ("true", "true"), ("1,2", "1%2C2"), ("", ""), ("nan", "nan"), (None, None)],
)
def test_a_json_value_is_a_number_or_a_string(value: str | None, written: object) -> None:
    rendered = render('{"a": #QUERY_A}', query="" if value is None else f"a={value}")

    assert json.loads(rendered) == {"a": written}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("1e5", "1e5"),
        ("7", "7"),
        ("1.50", "1.50"),
        ("null", "null"),
        ("#QUERY_A", "%23QUERY_A"),
        ('"', "%22"),
        (None, "#QUERY_A"),
    ],
)
def test_a_value_within_quotes_is_always_a_string(value: str | None, written: str) -> None:
    rendered = render('{"a": "#QUERY_A"}', query="" if value is None else f"a={quote(value)}")

    assert json.loads(rendered) == {"a": written}


@pytest.mark.parametrize("query", ["ag=1", "a=x", "a=1&ag=2"])
def test_a_parameter_with_a_shorter_name_is_no_json_value(query: str) -> None:
    assert render('{"age": #QUERY_AGE}', query=query) == '{"age": null}'


def test_a_room_is_a_string_within_quotes() -> None:
    assert render('["#ROOM", #ROOM]', room="7") == '["7", 7]'


@pytest.mark.parametrize(
    ("delimiters", "written"), [(None, "say a;b%0A%00%0D"), (";", "say a%3Bb%0A%00%0D"), ("ab", "say %61;%62%0A%00%0D")]
)
def test_values_in_text_have_no_delimiter(delimiters: str | None, written: str) -> None:
    assert render("say #ROOM", room="a;b\n\0\r", delimiters=delimiters) == written


def test_values_in_json_have_no_delimiter() -> None:
    rendered = render('{"room":"#ROOM"}', room="a;😀b", delimiters=";😀")

    assert rendered == r'{"room":"a\u003b\ud83d\ude00b"}'
    assert json.loads(rendered) == {"room": "a;😀b"}


@given(room=st.text(), remote_addr=st.text(), query=st.text())
def test_no_value_changes_the_structure_of_a_message(room: str, remote_addr: str, query: str) -> None:
    template = parse_template('{"id":#ID,"room":"#ROOM","addr":#REMOTE_ADDR,"q":"#QUERY_STRING","a":"#QUERY_A"}')

    rendered = template.render(ClientId(1), room, remote_addr, query)

    message = json.loads(rendered)
    assert list(message) == ["id", "room", "addr", "q", "a"]
    assert message["id"] == 1
    assert b"\n" not in rendered


def test_line_ends_around_a_template_are_removed() -> None:
    assert render("\nhello #ID\r\n") == "hello 1"


def test_json_on_many_lines_becomes_one_record() -> None:
    assert render('\n{\n  "t": "has come",\r\n  "id": #ID, "room": #ROOM\n}\n') == '{"t":"has come","id":1,"room":"lobby"}'
