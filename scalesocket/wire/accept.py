"""Content negotiation by the `Accept` and `Accept-Encoding` fields of a request (RFC 9110 12.5)."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

IDENTITY: Final = "identity"
"""The content coding of an unencoded body."""
LAST: Final = 1e-9
"""The weight of `identity` if the client does not name it: less than that of any other accepted coding."""

_MEMBER: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_PARAMETER: Final = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*"?)+')
_WEIGHT: Final = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)
_ALIASES: Final = {"x-gzip": "gzip"}  # RFC 9110 8.4.1.3


class Preference(NamedTuple):
    """One member of an `Accept` or `Accept-Encoding` field."""

    name: str
    """A media range or a content coding, in lower case."""
    parameters: Mapping[str, str]
    """The parameters before the weight, unquoted, with names in lower case."""
    weight: float
    """From 0, which means not acceptable, to 1."""


def parse_accept(field: str) -> Iterator[Preference]:
    """Parse the members of a field. Invalid members are skipped.

    Weights with more than three digits or without a leading 0 are accepted; a weight above 1 counts as 1.
    """
    for member in _MEMBER.findall(field):
        name, *rest = (part.strip(" \t") for part in _PARAMETER.findall("-" + member))
        name = name[1:].strip(" \t")
        weight, parameters = 1.0, {}
        for part in rest:
            key, _, value = (text.strip(" \t") for text in part.partition("="))
            if key.lower() == "q":
                if not _WEIGHT.fullmatch(value):
                    break
                weight = min(1.0, float(value))
            elif key:
                parameters[key.lower()] = value.strip('"')
        else:
            if name:
                yield Preference(name.lower(), parameters, weight)


def choose_named(preferences: Iterable[Preference], offers: Sequence[str]) -> str | None:
    """Return the offer that the client names with the highest weight, the first of equal ones, or None if it names none.

    A wildcard does not name an offer.
    """
    weights: dict[str, float] = {}
    for preference in preferences:
        weights[preference.name] = max(weights.get(preference.name, 0.0), preference.weight)
    best = max(offers, key=lambda offer: weights.get(offer, 0.0), default=None)
    return best if best is not None and weights.get(best, 0.0) > 0 else None


def choose_coding(field: str | None, offers: Sequence[str]) -> str | None:
    """Return the content coding of the response: one of `offers`, in the order of the server's preference, or `identity`.

    None if the client accepts neither (RFC 9110 12.5.3). `field`: the `Accept-Encoding` of the request, or None. Without it, or
    if it is empty, the coding is `identity`.
    """
    weights = {_ALIASES.get(name, name): weight for name, _, weight in parse_accept(field or "")}
    rest = weights.get("*")
    candidates = {offer: weights.get(offer, rest or 0.0) for offer in offers}
    candidates[IDENTITY] = weights.get(IDENTITY, LAST if rest is None else rest)
    best = max(candidates, key=candidates.__getitem__)
    return best if candidates[best] > 0 else None
