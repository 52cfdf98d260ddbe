"""DNS rebinding: evil.example resolves to 127.0.0.1, and its page sends requests to a server on the loopback."""

import sys
from typing import Final

from tests.attacks.tries import Try, ask, run
from tests.playing import Lane, open_playground, site_of
from tests.raw import upgrade

PAGES: Final = ("/", "/chat/", "/chat/api/rooms/", "/api/apps/", "/metrics", "/health", "/ready", "/nothing")
LANGUAGE: Final = "Accept-Language: en"
FORGED: Final = "X-Forwarded-For: 192.0.2.1"


def get(path: str, *fields: str, host: str) -> bytes:
    """Make a plain request."""
    return "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", f"Host: {host}", *fields, "")).encode()


async def attack() -> list[Try]:
    """Try both lanes."""
    return [*await attack_lane("express"), *await attack_lane("general")]


async def attack_lane(lane: Lane) -> list[Try]:
    """Try the websocket and every kind of page on one lane."""
    async with open_playground(site_of({"chat": {"command": ["cat"], "origins": ["*"]}}), lane) as site:
        evil, good = f"evil.example:{site.port}", f"localhost:{site.port}"
        tries: list[tuple[str, str, bytes]] = [
            ("its websocket", "421", upgrade("/chat/one", f"Origin: http://{evil}", host=evil)),
            ("its websocket, without an Origin", "421", upgrade("/chat/one", LANGUAGE, host=evil)),
            ("a websocket, an absolute target", "421", upgrade(f"ws://{evil}/chat/one", f"Origin: http://{evil}", host=good)),
            ("a websocket, a name like localhost", "421", upgrade("/chat/one", LANGUAGE, host="localhost.evil.example")),
            *((f"GET {page}", "421", get(page, LANGUAGE, host=evil)) for page in PAGES),
            *((f"GET {page}, posing as a proxy", "421", get(page, LANGUAGE, FORGED, host=evil)) for page in PAGES),
            *(bad_host(host) for host in ("a, b", "a@b", "a/b?x", "")),
            ("two Host headers", "400", upgrade("/chat/one", f"Host: {good}", host=evil)),
            ("a proxy's websocket", "101", upgrade("/chat/one", FORGED, "Origin: https://play.example", host="play.example")),
            ("a websocket of localhost", "101", upgrade("/chat/one", f"Origin: http://{good}", host=good)),
            ("GET /health of localhost", "200", get("/health", LANGUAGE, host=good)),
        ]
        return [Try(f"{lane}: {name}", expected, await ask(site, request)) for name, expected, request in tries]


def bad_host(host: str) -> tuple[str, str, bytes]:
    """A websocket upgrade with an invalid host."""
    return f"a websocket, Host: {host}", "400", upgrade("/chat/one", host=host)


if __name__ == "__main__":
    sys.exit(run("DNS rebinding to the loopback", attack))
