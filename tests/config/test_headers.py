"""Response headers that a site file may add to static files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.config.headers import CONNECTION_FIELDS, FILE_FIELDS, check_name, check_value
from scalesocket.config.model import App


@pytest.mark.parametrize(
    "name", sorted(CONNECTION_FIELDS | FILE_FIELDS | {"Sec-WebSocket-Accept", "Transfer-Encoding", "CONTENT-LENGTH"})
)
def test_headers_that_the_server_sets_are_rejected_in_any_letter_case(name: str) -> None:
    for spelling in (name, name.title(), name.upper()):
        with pytest.raises(ValueError, match="is set by the server"):
            check_name(spelling)


@given(st.text(), st.text())
def test_an_accepted_header_is_one_valid_field_line(name: str, value: str) -> None:
    try:
        line = f"{check_name(name)}: {check_value(value)}"
    except ValueError:
        return

    assert line.isascii()
    assert not any(character in line for character in "\r\n\0")
    assert line.partition(":")[0] == name


def test_headers_from_python_are_checked_too() -> None:
    with pytest.raises(ValueError, match="Content-Type"):
        App(name="game", command=["cat"], static_headers={"Content-Type": "text/html"})
