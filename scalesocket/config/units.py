"""Durations and sizes: strings with a unit in the site file, float seconds and int bytes everywhere else."""

import re
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

KiB: Final = 1024
MiB: Final = 1024 * KiB
GiB: Final = 1024 * MiB

SIZE_UNITS: Final[Mapping[str, int]] = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": KiB,
    "MiB": MiB,
    "GiB": GiB,
    "TiB": 1024 * GiB,
}
DURATION_UNITS: Final[Mapping[str, float]] = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

NUMBER: Final = r"\d+(?:\.\d+)?"
DURATION_PATTERN: Final = "^" + "".join(rf"(?:({NUMBER}){unit})?" for unit in DURATION_UNITS) + "$"
SIZE_PATTERN: Final = rf"^({NUMBER}) ?({'|'.join(SIZE_UNITS)})$"

_DURATION: Final = re.compile(DURATION_PATTERN.replace("?:(", "?: ?("), re.ASCII)
_SIZE: Final = re.compile(SIZE_PATTERN, re.ASCII | re.IGNORECASE)
_SIZE_UNITS_FOLDED: Final = {unit.lower(): factor for unit, factor in SIZE_UNITS.items()}
_BARE: Final = re.compile(rf"^{NUMBER}$", re.ASCII)


def parse_duration(text: str) -> float:
    """Read `"30s"`, `"250ms"` or `"1h30m"` as seconds. Units are d, h, m, s and ms, from large to small.

    Raises ValueError with a hint if `text` is anything else.
    """
    text = text.strip()
    match = _DURATION.match(text)
    if not text or match is None:
        if _BARE.match(text):
            raise ValueError(_unit_missing(text, "s"))
        raise ValueError(f'{text!r} is not a duration (write for example "30s", "250ms" or "1h30m")')
    parts = zip(DURATION_UNITS.values(), match.groups(), strict=True)
    return sum(float(number) * factor for factor, number in parts if number is not None)


def format_duration(seconds: float) -> str:
    """Write seconds in the form of the site file, to the millisecond: `"1h30m"`, `"250ms"`, `"0s"`."""
    rest = round(seconds * 1000)
    parts = []
    for unit, factor in DURATION_UNITS.items():
        count, rest = divmod(rest, round(factor * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_size(text: str) -> int:
    """Read `"1MiB"` (powers of 1024) or `"64kB"` (powers of 1000) as bytes, in any letter case.

    Raises ValueError with a hint if `text` is anything else, or not a whole number of bytes.
    """
    text = text.strip()
    match = _SIZE.match(text)
    if match is None:
        if _BARE.match(text):
            raise ValueError(_unit_missing(text, "B"))
        raise ValueError(f'{text!r} is not a size (write for example "64kB" or "1MiB")')
    size = float(match[1]) * _SIZE_UNITS_FOLDED[match[2].lower()]
    if size >= 1 << 63:
        raise ValueError(f"{text!r} is too large (it must be less than 8 EiB)")
    if size != int(size):
        raise ValueError(f'{text!r} is not a whole number of bytes (write for example "512B" or "1kB")')
    return int(size)


def format_size(size: int) -> str:
    """Write bytes in the form of the site file, with the largest unit that gives a whole number: `"1MiB"`, `"100B"`."""
    unit, factor = max(
        ((unit, factor) for unit, factor in SIZE_UNITS.items() if size and size % factor == 0),
        key=lambda u: u[1],
        default=("B", 1),
    )
    return f"{size // factor}{unit}"


def _unit_missing(number: object, unit: str) -> str:
    return f'{number} has no unit (write "{number}{unit}")'


def _require_unit_in_file(value: object, info: ValidationInfo, unit: str) -> None:
    if info.context is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("string_type", "must be a string")
    raise ValueError(_unit_missing(value, unit))


def _read_duration(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    _require_unit_in_file(value, info, "s")
    return value


def _read_size(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return parse_size(value)
    _require_unit_in_file(value, info, "B")
    return value


Duration = Annotated[
    float,
    BeforeValidator(_read_duration),
    PlainSerializer(format_duration, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "minLength": 2, "x-form": "duration"}),
]
"""Seconds. A number from Python, a string with a unit from a site file."""

Size = Annotated[
    int,
    BeforeValidator(_read_size),
    PlainSerializer(format_size, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": SIZE_PATTERN, "x-form": "size"}),
]
"""Bytes. A number from Python, a string with a unit from a site file."""

PositiveDuration = Annotated[Duration, Field(gt=0, allow_inf_nan=False)]
AnyDuration = Annotated[Duration, Field(ge=0, allow_inf_nan=False)]
PositiveSize = Annotated[Size, Field(gt=0)]
