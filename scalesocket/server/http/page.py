"""Renders the landing pages to HTML: the front page of a site, and the page of an app.

There is one template, with one style and one script inside the page; nothing else is loaded. The template escapes all text of
the site file and of clients. Elements that change have the attribute `data-live`: the script fetches the page again and replaces
them.
"""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Final
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined

from scalesocket.server.http.views import ROOM, AppView


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


STYLE: Final = _read("page.css")
SCRIPT: Final = _read("page.js")
LOGO: Final = _read("page.svg")

TEMPLATE: Final = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
    _read("page.html"),
    globals={
        "cut": lambda text: text.rpartition(ROOM) if ROOM in text else (text, "", ""),
        "icon": "data:image/svg+xml," + quote(LOGO.replace("currentColor", "#5b74e8")),
        "logo": LOGO,
        "placeholder": ROOM,
        "script": SCRIPT,
        "style": STYLE,
    },
)


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hash(STYLE)}",
        f"script-src {_hash(SCRIPT)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The Content-Security-Policy of these pages: only their own script and style are allowed."""


def render_front(apps: Sequence[AppView], links: Sequence[str]) -> str:
    """Render the front page, with a card for each app."""
    return TEMPLATE.render(app=None, apps=apps, links=links)


def render_app(app: AppView, links: Sequence[str]) -> str:
    """Render the page of one app."""
    return TEMPLATE.render(app=app, apps=[], links=links)
