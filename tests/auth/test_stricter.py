"""Whom a stricter rule keeps out."""

from typing import Any

import pytest

from scalesocket.auth.identity import Identity
from scalesocket.auth.stricter import find_kept_out, is_kept_out
from scalesocket.config.model import Auth

JWT: dict[str, Any] = {"jwt": {"secret": "x" * 32}}
HEADER: dict[str, Any] = {"header": "Remote-User"}
HOOK: dict[str, Any] = {"hook": {"url": "https://app.example/auth"}}


def by(method: str, user: str | None = "ann") -> Identity:
    return Identity(method=method, user=user)


@pytest.mark.parametrize(
    ("identity", "auth", "expected"),
    [
        (by("jwt"), JWT, False),
        (by("jwt"), HEADER, True),
        (by("header"), HEADER, False),
        (by("header"), JWT, True),
        (by("hook"), HOOK, False),
        (by("hook"), JWT, True),
        (by("token"), JWT, True),
        (by("basic"), JWT, True),
        (by("anonymous", None), JWT, True),
        (by("anonymous", None), {**JWT, "anonymous": True}, False),
        (None, JWT, True),
        (None, {**JWT, "anonymous": True}, False),
        (by("ticket"), JWT, False),
        (by("ticket"), {**JWT, "from": ["header"]}, True),
        (by("ticket"), {"anonymous": True}, True),
    ],
)
def test_a_client_is_kept_out_when_its_way_is_gone(identity: Identity | None, auth: dict[str, Any], *, expected: bool) -> None:
    assert is_kept_out(identity, Auth.model_validate(auth)) is expected


def test_an_app_without_auth_keeps_nobody_out() -> None:
    assert not is_kept_out(by("jwt"), None)
    assert not is_kept_out(None, None)


def test_the_users_who_are_kept_out_are_named_and_guests_are_counted() -> None:
    clients = [by("jwt", "ann"), by("header", "bob"), by("anonymous", None), None]

    assert find_kept_out(clients, Auth.model_validate(HEADER)) == ("ann", "guest", "guest")
