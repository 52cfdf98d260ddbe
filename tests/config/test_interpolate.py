"""Interpolation of `${NAME}`."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.config.interpolate import interpolate

ENVIRON = {"NAME": "ann", "EMPTY": "", "NESTED": "${NAME}"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("hello ${NAME}", "hello ann"),
        ("${NAME}${NAME}", "annann"),
        ("[${EMPTY}]", "[]"),
        ("${NAME:-bob}", "ann"),
        ("${NOPE:-bob}", "bob"),
        ("${EMPTY:-bob}", "bob"),
        ("${NOPE:-}", ""),
        ("${NAME:?who}", "ann"),
        ("$${NAME}", "${NAME}"),
        ("$$${NAME}", "$${NAME}"),
        ("$$ $NAME $5 ${NAME}$", "$$ $NAME $5 ann$"),
        ("${NESTED}", "${NAME}"),
    ],
)
def test_variables_with_braces_are_replaced_and_other_text_is_unchanged(text: str, result: str) -> None:
    assert interpolate(text, ENVIRON) == result


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NOPE}", 'the variable NOPE is not set (set it, or give a default: "${NOPE:-…}")'),
        ("${NOPE:?say who you are}", "the variable NOPE is not set: say who you are"),
        ("${EMPTY:?}", "the variable EMPTY is not set"),
        ("a ${NAME", '"${NAME" is not a variable (write "${NAME}", or "$${" for a literal "${")'),
        ("${1} b", '"${1}" is not a variable (write "${NAME}", or "$${" for a literal "${")'),
        ("${NAME-x}", '"${NAME-x}" is not a variable (write "${NAME}", or "$${" for a literal "${")'),
        ("${NAME:-${EMPTY}}", '"${NAME:-${EMPTY}" is not a variable (write "${NAME}", or "$${" for a literal "${")'),
        ("${}", '"${}" is not a variable (write "${NAME}", or "$${" for a literal "${")'),
    ],
)
def test_an_unset_variable_and_any_other_form_are_errors(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        interpolate(text, ENVIRON)


@given(st.text())
def test_a_text_without_an_opening_brace_is_never_changed(text: str) -> None:
    text = text.replace("${", "")

    assert interpolate(text, {}) == text


@given(st.text(), st.text())
def test_the_value_of_a_variable_is_not_interpolated_again(before: str, value: str) -> None:
    before = before.replace("$", "")

    assert interpolate(f"{before}${{X}}", {"X": value}) == before + value
