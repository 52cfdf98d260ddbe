"""The pages and files of a site in a real browser."""

import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from websockets.sync.client import connect

from tests.examples.browsing import CHROMIUM, FLAGS, NEEDS_CHROMIUM, SERVE
from tests.examples.listening import run_until_listening

PATIENCE: Final = 15_000
"""Milliseconds in which a page must show a change."""

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


EXPORT: Final = """<!doctype html>
<script src="Build/web.framework.js.gz"></script>
<script>
(async () => {
  const { module } = await WebAssembly.instantiateStreaming(fetch("Build/web.wasm.gz"))
  const data = await (await fetch("Build/web.data.gz")).text()
  document.title = [framework, module instanceof WebAssembly.Module, data, crossOriginIsolated].join(" ")
})()
</script>
"""


def test_a_compressed_export_loads_and_is_isolated_for_threads(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "export" / "Build").mkdir(parents=True)
    (tmp_path / "export" / "index.html").write_text(EXPORT)
    parts = {"framework.js": b"const framework = 'ready'", "wasm": b"\0asm\1\0\0\0", "data": b"levels"}
    for name, content in parts.items():
        (tmp_path / "export" / "Build" / f"web.{name}.gz").write_bytes(gzip.compress(content))
    (tmp_path / "site.toml").write_text(
        '[apps.game]\ncommand = "cat"\nstatic = "export"\n'
        'static_headers = { Cross-Origin-Opener-Policy = "same-origin", Cross-Origin-Embedder-Policy = "require-corp" }\n'
    )

    with run_until_listening(*SERVE, str(tmp_path / "site.toml")) as address:
        page = browser.new_page()
        page.goto(f"http://{address}/game/")

        expect(page).to_have_title("ready true levels true")
        page.close()


REFRESH_SOON: Final = """
const wait = window.setTimeout
window.setTimeout = (callback, delay) => wait(callback, delay === 3000 ? 100 : delay)
"""
"""Makes a page fetch its rooms after 0.1 s instead of 3 s."""

SITE: Final = """
[apps.chat]
command = "cat"
room_pattern = ".+"
origins = ["*"]
[apps.whiteboard-of-the-whole-company]
command = "cat"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A site file, and the address at which it is served."""
    file = tmp_path_factory.mktemp("site") / "site.toml"
    file.write_text(SITE)
    with run_until_listening(*SERVE, str(file)) as address:
        yield file, address


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a URL; at the end the browser's console must be empty."""
    complaints: list[str] = []
    contexts = []

    def visit(url: str, **options: Any) -> Page:
        contexts.append(browser.new_context(**options))
        contexts[-1].add_init_script(REFRESH_SOON)
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("path", ["/", "/chat/"])
def test_an_open_page_follows_its_rooms_whatever_their_names(
    site: tuple[Path, str], visit: Callable[..., Page], path: str
) -> None:
    _, address = site
    page = visit(f"http://{address}{path}")
    name = "<img src=x onerror=alert(1)>"

    with connect(f"ws://{address}/chat/{quote(name)}"), connect(f"ws://{address}/chat/{quote(name)}"):
        room = page.locator(".rooms li", has_text=name)
        expect(room).to_have_text(re.compile(r"2$"), timeout=PATIENCE)

    expect(room).to_have_count(0, timeout=PATIENCE)


def test_an_open_front_page_follows_an_edit_of_the_site(site: tuple[Path, str], visit: Callable[..., Page]) -> None:
    file, address = site
    page = visit(f"http://{address}/")

    file.write_text(SITE + '[apps.later]\ncommand = "cat"\n')

    expect(page.locator("h2", has_text="later")).to_be_visible(timeout=PATIENCE)


@pytest.mark.parametrize("path", ["/", "/whiteboard-of-the-whole-company/"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_fit_a_phone_and_have_enough_contrast(
    site: tuple[Path, str], visit: Callable[..., Page], path: str, scheme: str
) -> None:
    _, address = site
    with connect(f"ws://{address}/whiteboard-of-the-whole-company/{'long' * 32}"):
        page = visit(f"http://{address}{path}", viewport={"width": 320, "height": 640}, color_scheme=scheme)

        for details in page.locator("summary").all():
            details.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        ground, ink = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
        assert contrast(ground, ink) > 7


def test_the_copied_code_to_connect_works(site: tuple[Path, str], visit: Callable[..., Page]) -> None:
    _, address = site
    page = visit(f"http://{address}/chat/", permissions=["clipboard-read", "clipboard-write"])

    line = page.locator(".line", has_text="new WebSocket")
    line.hover()
    line.get_by_role("button", name="Copy").click()
    expect(line.get_by_role("button", name="Copied")).to_be_visible()

    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f'new WebSocket("ws://{address}/chat/ROOM")')
    page.evaluate(f"() => {{ {copied} }}")
    expect(page.locator(".rooms li", has_text="ROOM")).to_be_visible(timeout=PATIENCE)


def contrast(one: str, other: str) -> float:
    """The ratio of two colours' luminance (WCAG 2, 1.4.3)."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
