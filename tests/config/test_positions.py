"""The scanner of key positions, compared with tomli."""

from collections.abc import Iterator
from typing import Any

import pytest
import tomli
from hypothesis import example, given, reject
from hypothesis import strategies as st

from scalesocket.config.positions import KeyPath, Lines, Span, scan_positions
from scalesocket.config.render import to_toml

NAMES = ["a", "b-c", "1", '"x.y"', "'q q'", r'"A\""', "apps", "''"]
SCALARS = [
    *("1", "-0x1F", "1_000.5e3", "inf", "true", "1979-05-27 07:32:00Z", "1979-05-27", "07:32:00"),
    *('"plain"', r'"es\"c\\"', "'lite\\'", '"#no, ] } comment"', '""', "''"),
    *('"""one\ntwo"""', '"""quo""tes"""""', '"""\\"""" """', "'''\nli''t\\'''''", '""""""', "''''''", '"""a\\\n   b"""'),
]
BLANKS = st.sampled_from(["", " ", "\t "])
NEWLINES = st.sampled_from(["", " ", "\n", " # a ] } , = 'comment\"\n\n"])


def strings() -> st.SearchStrategy[str]:
    return st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])).map(to_toml)


@st.composite
def keys(draw: st.DrawFn) -> str:
    parts = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3))
    return f"{draw(BLANKS)}.{draw(BLANKS)}".join(parts)


def values() -> st.SearchStrategy[str]:
    return st.recursive(st.sampled_from(SCALARS) | strings(), lambda inner: arrays(inner) | inline_tables(inner), max_leaves=6)


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    items = draw(st.lists(inner, max_size=3))
    comma = draw(NEWLINES) + "," + draw(NEWLINES)
    last = comma if items and draw(st.booleans()) else ""
    return f"[{draw(NEWLINES)}{comma.join(items)}{last}{draw(NEWLINES)}]"


@st.composite
def inline_tables(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(keys(), inner), max_size=3))
    written = ", ".join(f"{key}{draw(BLANKS)}={draw(BLANKS)}{value}" for key, value in pairs)
    return f"{{{draw(BLANKS)}{written}{draw(BLANKS)}}}"


@st.composite
def statements(draw: st.DrawFn) -> str:
    key = draw(keys())
    match draw(st.sampled_from(["pair", "pair", "table", "item", "blank"])):
        case "pair":
            written = f"{draw(BLANKS)}{key}{draw(BLANKS)}={draw(BLANKS)}{draw(values())}"
        case "table":
            written = f"[{draw(BLANKS)}{key}{draw(BLANKS)}]"
        case "item":
            written = f"[[{key}]]"
        case _:
            written = ""
    return written + draw(st.sampled_from(["", " ", " # [not] = a.key"]))


def paths_of(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths_of(inner, (*path, key))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths_of(inner, (*path, index))


def text_at(text: str, span: Span) -> str:
    return text[span.start : span.end]


@given(st.lists(statements(), max_size=6).map("\n".join))
@example("[[a]]\n[[a]]\n[a.b]\nc = 1\n[[a.d]]\n[[a.d]]")
@example("a.b.c = 1\na.b.d = {e.f = [1, {g = 2}]}")
@example("[a.b]\n[a]\nc = 1")
def test_the_scanner_finds_the_position_of_everything_that_tomli_reads(text: str) -> None:
    try:
        tables = tomli.loads(text)
    except tomli.TOMLDecodeError:
        reject()

    entries = scan_positions(text)

    expected = dict(paths_of(tables))
    assert set(entries) == set(expected)
    for path, entry in entries.items():
        if isinstance(path[-1], str):
            assert list(tomli.loads(f"{text_at(text, entry.key)} = 1")) == [path[-1]]
        written = text_at(text, entry.value)
        is_header = isinstance(expected[path], dict) and not written.startswith("{")
        is_item = isinstance(path[-1], int)
        if not is_header and (is_item or entry.key != entry.value):
            assert tomli.loads(f"x = {written}") == {"x": expected[path]}


@pytest.mark.parametrize(("offset", "place"), [(0, (1, 1)), (2, (1, 3)), (3, (2, 1)), (4, (3, 1)), (6, (3, 3))])
def test_offsets_are_lines_and_columns_from_one(offset: int, place: tuple[int, int]) -> None:
    assert Lines("ab\n\ncd").locate(offset) == place
