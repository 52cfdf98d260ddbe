"""Tokens for the tests."""

import time
from typing import Any, Final

import jwt

SECRET: Final = "s" * 32
AUTH: Final = {"jwt": {"secret": SECRET}}


def token(user: str | None = "ann", *, ttl: float = 60.0, secret: str = SECRET, **claims: Any) -> str:
    """Sign a token that expires in `ttl` seconds."""
    given = {"exp": time.time() + ttl, **({} if user is None else {"sub": user}), **claims}
    return jwt.encode({name: value for name, value in given.items() if value is not None}, secret, "HS256")


def bearer(its_token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {its_token}"}
