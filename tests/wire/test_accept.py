"""Negotiation by Accept and Accept-Encoding."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.wire.accept import choose_coding, choose_named, parse_accept

OFFERS = ("br", "gzip")

CODINGS = [
    (None, "identity"),
    ("", "identity"),
    ("gzip, deflate, br, zstd", "br"),
    ("gzip, deflate", "gzip"),
    ("GZIP", "gzip"),
    ("x-gzip", "gzip"),
    ("br;q=0.5, gzip", "gzip"),
    ("br ; q = 0.5 ,\tgzip ; Q=0.4", "br"),
    ("deflate", "identity"),
    ("*", "br"),
    ("br;q=0, *", "gzip"),
    ("*;q=0.5, gzip;q=0.2", "br"),
    ("identity;q=1, *;q=0", "identity"),
    ("identity, gzip;q=0.9", "identity"),
    ("identity;q=0.5, gzip;q=0.5", "gzip"),
    ("identity;q=0", None),
    ("identity;q=0, gzip", "gzip"),
    ("identity;q=0, gzip;q=0", None),
    ("*;q=0", None),
    ("*;q=0, br", "br"),
    ("gzip;q=0", "identity"),
    ("gzip;q=0.000", "identity"),
    ("gzip;q=2", "gzip"),
    ("gzip;q=high, br;q=-1, br;q=", "identity"),
    ("gzip;q=.5", "gzip"),
    (",,;q=1,;,gzip", "gzip"),
    ('gzip;a="br, *;q=1"', "gzip"),
]


@pytest.mark.parametrize(("field", "chosen"), CODINGS)
def test_the_coding_is_chosen_by_weight_then_by_the_servers_preference(field: str | None, chosen: str | None) -> None:
    assert choose_coding(field, OFFERS) == chosen


def test_without_a_compressed_file_only_identity_is_offered() -> None:
    assert choose_coding("gzip, br", ()) == "identity"
    assert choose_coding("gzip, identity;q=0", ()) is None


WEIGHTS = st.integers(0, 1000)


def written(weight: int) -> str:
    return f"{weight // 1000}.{weight % 1000:03}".rstrip("0").rstrip(".")


@given(st.dictionaries(st.sampled_from(("br", "gzip", "identity", "*", "deflate", "zstd")), WEIGHTS), st.randoms())
def test_the_order_of_the_field_does_not_matter(weights: dict[str, int], shuffle: Random) -> None:
    members = [f"{name};q={written(weight)}" for name, weight in weights.items()]
    shuffle.shuffle(members)

    chosen = choose_coding(", ".join(members), OFFERS)

    rest = weights.get("*", 0)
    candidates: dict[str, float] = {name: weights.get(name, rest) for name in OFFERS}
    candidates["identity"] = weights.get("identity", weights.get("*", 0.1))
    best = max(candidates.values())
    assert chosen == (next(name for name in candidates if candidates[name] == best) if best > 0 else None)


@given(st.one_of(st.text(), st.text('gzipbr*identity;q=0.19," \t\\', max_size=60)))
def test_any_text_gives_an_offer_or_identity(field: str) -> None:
    assert choose_coding(field, OFFERS) in {"br", "gzip", "identity", None}
    assert all(0 <= preference.weight <= 1 and preference.name for preference in parse_accept(field))


def test_the_longest_field_is_parsed_in_linear_time() -> None:
    for piece in ('"', '"\\', "a;", ",", ';q="', "gzip;q=0.1,"):
        assert choose_coding(piece * (32_768 // len(piece)), OFFERS) in {"br", "gzip", "identity"}


TYPES = ("application/json", "text/plain")


@pytest.mark.parametrize(
    ("field", "chosen"),
    [
        ("application/json", "application/json"),
        ("text/plain;q=0.9, application/json;q=0.8", "text/plain"),
        ("text/plain, application/json", "application/json"),
        ("TEXT/PLAIN; charset=utf-8", "text/plain"),
        ("application/json;q=0", None),
        ("*/*", None),
        ("application/*", None),
        ("text/html", None),
        ("", None),
    ],
)
def test_only_named_media_types_are_chosen(field: str, chosen: str | None) -> None:
    assert choose_named(parse_accept(field), TYPES) == chosen
