"""Durations and sizes with their units."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.config.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    GiB,
    KiB,
    MiB,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30.0), ("250ms", 0.25), ("1h30m", 5400.0), ("2d", 172800.0), ("0s", 0.0), ("1.5s", 1.5), ("1m 30s", 90.0)],
)
def test_a_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1MiB", MiB),
        ("64kB", 64_000),
        ("64KiB", 64 * KiB),
        ("0.5GiB", GiB // 2),
        ("100B", 100),
        ("1 MB", 10**6),
        ("5mb", 5 * 10**6),
    ],
)
def test_a_size_is_read_as_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "s", "-5s", "1x", "30m1h", "1s1s", "1e3s", "٣s", "1h30"])
def test_text_that_is_not_a_duration_is_rejected_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"""'.*' is not a duration \(write for example "30s", "250ms" or "1h30m"\)"""):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "MiB", "-1MiB", "1Mib2", "1K", "١kB"])
def test_text_that_is_not_a_size_is_rejected_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"""'.*' is not a size \(write for example "64kB" or "1MiB"\)"""):
        parse_size(text)


def test_a_number_without_a_unit_is_rejected_with_a_unit_suggested() -> None:
    with pytest.raises(ValueError, match=re.escape('30 has no unit (write "30s")')):
        parse_duration("30")
    with pytest.raises(ValueError, match=re.escape('1024 has no unit (write "1024B")')):
        parse_size("1024")


def test_a_part_of_a_byte_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"'0\.3B' is not a whole number of bytes"):
        parse_size("0.3B")


@given(st.integers(min_value=0, max_value=10**10))
def test_a_duration_survives_being_written_and_read(milliseconds: int) -> None:
    text = format_duration(milliseconds / 1000)

    assert parse_duration(text) == pytest.approx(milliseconds / 1000)
    assert re.search(DURATION_PATTERN, text)


@given(st.integers(min_value=0, max_value=2**45))
def test_a_size_survives_being_written_and_read(size: int) -> None:
    text = format_size(size)

    assert parse_size(text) == size
    assert re.search(SIZE_PATTERN, text)


@given(st.text(max_size=12))
def test_any_text_is_read_or_rejected(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0
