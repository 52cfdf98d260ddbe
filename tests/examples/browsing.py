"""Shared by tests of pages in a browser."""

import shutil
import sys
from collections.abc import Callable
from typing import Any, Final

import pytest
from playwright.sync_api import Page

CHROMIUM: Final = shutil.which("chromium")
NEEDS_CHROMIUM: Final = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt-get install chromium)")
FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SERVE: Final = (sys.executable, "-m", "scalesocket", "serve", "--bind", "127.0.0.1:0")
PAGE_TIMEOUT: Final = 10_000
"""Milliseconds for a page to show what it receives."""
JOINED: Final = '.status[data-state="open"]'
PHONE: Final[dict[str, Any]] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}

Open = Callable[..., Page]
"""Opens a URL in a new browser context, with options of the context."""
