import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.examples.browsing import CHROMIUM, FLAGS, PAGE_TIMEOUT, Open


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, because tests run in parallel and only one server can serve a site file."""
    return shutil.copytree(Path(__file__).parents[2] / "examples", tmp_path_factory.mktemp("site") / "examples")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Open a URL in a new browser context; at the end no page may have an error in its console."""
    errors: list[str] = []
    contexts = []

    def visit(url: str, *, width: int = 1100, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": width, "height": 720}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PAGE_TIMEOUT)

        def check(message: ConsoleMessage) -> None:
            if (
                message.type in ("error", "warning") and "willReadFrequently" not in message.text
            ):  # caused by tests that read a canvas
                errors.append(f"{url}: {message.type}: {message.text}")

        page.on("console", check)
        page.on("pageerror", lambda error: errors.append(f"{url}: {error}"))
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not errors, "\n".join(errors)
