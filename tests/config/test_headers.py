"""Which headers a site file may add to static files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.config.headers import CONNECTION_FIELDS, FILE_FIELDS, check_name, check_value
from scalesocket.config.model import App


@pytest.mark.parametrize(
    "name", sorted(CONNECTION_FIELDS | FILE_FIELDS | {"Sec-WebSocket-Accept", "Transfer-Encoding", "CONTENT-LENGTH"})
)
def test_a_header_of_the_connection_or_of_the_file_is_refused_in_any_case(name: str) -> None:
    for spelling in (name, name.title(), name.upper()):
        with pytest.raises(ValueError, match="is set by the server"):
            check_name(spelling)


@given(st.text(), st.text())
def test_what_is_accepted_is_one_whole_field_line(name: str, value: str) -> None:
    try:
        line = f"{check_name(name)}: {check_value(value)}"
    except ValueError:
        return

    assert line.isascii()
    assert not any(character in line for character in "\r\n\0")
    assert line.partition(":")[0] == name


def test_python_is_held_to_the_same_rules() -> None:
    with pytest.raises(ValueError, match="Content-Type"):
        App(name="game", command=["cat"], static_headers={"Content-Type": "text/html"})
