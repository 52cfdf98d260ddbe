"""When a certificate ends, and when its end is announced."""

import base64
import ssl
import subprocess
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.config.validity import DAY, Validity, read_validity, show_time

QUARTER: Final = Validity(begins_at=0.0, ends_at=90 * DAY)
WEEK: Final = Validity(begins_at=0.0, ends_at=6 * DAY)


@pytest.mark.parametrize("days", [1, 30, 36_500, 2_000_000])  # the last two end after 2049, as GeneralizedTime
def test_the_validity_is_the_one_that_openssl_shows(days: int, tmp_path: Path) -> None:
    file = tmp_path / "site.pem"
    words = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days {days} -subj /CN=x/O=games"
    subprocess.run(["openssl", *words.split(), "-out", file, "-keyout", tmp_path / "key"], check=True, capture_output=True)
    shown = subprocess.run(["openssl", "x509", "-in", file, "-noout", "-dates"], check=True, capture_output=True, text=True)
    begin, end = (ssl.cert_time_to_seconds(line.partition("=")[2]) for line in shown.stdout.splitlines())

    assert read_validity("a comment\n" + file.read_text()) == Validity(begins_at=begin, ends_at=end)


@pytest.mark.parametrize(
    ("validity", "now", "text"),
    [
        (QUARTER, -1.0, "is not valid yet"),
        (QUARTER, 75.9 * DAY, None),
        (QUARTER, 76.5 * DAY, "expires in 13 days"),
        (QUARTER, 88.5 * DAY, "expires in 1 day"),
        (QUARTER, 89.5 * DAY, "expires in less than a day"),
        (QUARTER, 90 * DAY, "has expired"),
        (WEEK, 4.4 * DAY, None),
        (WEEK, 4.6 * DAY, "expires in 1 day"),
    ],
)
def test_warnings_begin_14_days_or_a_quarter_of_the_lifetime_before_the_end(
    validity: Validity, now: float, text: str | None
) -> None:
    assert validity.warn(now) == text


def test_a_time_is_shown_in_utc() -> None:
    assert show_time(1_000_000_000.0) == "2001-09-09T01:46:40Z"


@given(st.binary(max_size=80))
def test_a_damaged_certificate_is_a_value_error(der: bytes) -> None:
    pem = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----\n"

    with pytest.raises(ValueError, match=r"."):
        read_validity(pem)
