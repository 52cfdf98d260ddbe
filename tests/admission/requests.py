"""Sites and requests for the tests of admission."""

from typing import Any

from scalesocket.config.model import App, Site
from scalesocket.wire.handshake import Request


def site_with(**apps: dict[str, Any]) -> Site:
    return Site(apps={name: App(name=name, command=("cat",), **settings) for name, settings in apps.items()})


def request_for(
    path: str = "/chat/one",
    *,
    peer: tuple[str, int] | None = ("192.0.2.1", 1234),
    local: tuple[str, int] | None = None,
    secure: bool = False,
    version: str = "1.1",
    proxied: bool = False,
    **headers: str | None,
) -> Request:
    """A request with these headers: `_` stands for `-`, None for no header. The default is `Host: example.org`."""
    fields = {"host": "example.org", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Request(
        method="GET",
        target=path,
        path=path,
        query="",
        headers={name: value for name, value in fields.items() if value is not None},
        peer=peer,
        local=local,
        is_secure=secure,
        http_version=version,
        is_proxied=proxied,
    )
