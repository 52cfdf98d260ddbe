"""Responses in JSON."""

from collections.abc import Mapping
from typing import Final

import msgspec
from quart import Response

JSON: Final = "application/json"


def answer_json(value: object, status: int = 200, *, headers: Mapping[str, str] | None = None) -> Response:
    """Make a response of a value in JSON; `msgspec.Raw` inside it is written as it is."""
    return Response(msgspec.json.encode(value), status, dict(headers or {}), content_type=JSON)


def answer_error(status: int, error: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """Make the response `{"error": …}`: lower case, no full stop."""
    return answer_json({"error": error}, status, headers=headers)
