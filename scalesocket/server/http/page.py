"""The pages for visitors: the front page of a site, and that of an app without a page of its own.

One template, one style and one script, the latter two inside the page; nothing is loaded from elsewhere. The template escapes
whatever comes from a site or its clients. The parts that change carry `data-live`: the script has the server render the
page again, and takes them from there.
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
"""The Content-Security-Policy of these pages: they run their own script and style, and nothing else."""


def render_front(apps: Sequence[AppView], links: Sequence[str]) -> str:
    """The front page: a card for each app."""
    return TEMPLATE.render(app=None, apps=apps, links=links)


def render_app(app: AppView, links: Sequence[str]) -> str:
    """The page of one app that has rooms and no page of its own."""
    return TEMPLATE.render(app=app, apps=[], links=links)
