"""The pages that `scalesocket init` writes, in a real browser: on a phone, in the dark, and when the connection is lost."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.cli.serving import scalesocket
from tests.examples.browsing import JOINED, NEEDS_CHROMIUM, PAGE_TIMEOUT, PHONE, SERVE, Open
from tests.examples.listening import run_until_listening

pytestmark = NEEDS_CHROMIUM
APPS: Final = {"minimal": "hello", "chat": "chat", "game": "game", "tcp": "dice"}


@dataclass
class Template:
    """A served template."""

    app: str
    url: str
    file: Path


@pytest.fixture(scope="module", params=APPS)
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    folder = tmp_path_factory.mktemp(request.param)
    assert scalesocket("init", request.param, cwd=folder).code == 0
    app = APPS[request.param]
    with run_until_listening(*SERVE, str(folder / "site.toml")) as address:
        yield Template(app, f"http://{address}/{app}/", folder / "site.toml")


@pytest.fixture(scope="module", params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def lightness_of(page: Page, selector: str, what: str) -> float:
    """Return the brightness of a computed colour, from 0 to 255."""
    colour = page.locator(selector).first.evaluate(f"element => getComputedStyle(element).{what}.match(/[0-9.]+/g).map(Number)")
    return sum(colour[:3]) / 3


def test_a_template_page_fits_a_phone_in_light_and_dark(template: Template, scheme: str, visit: Open) -> None:
    page = visit(f"{template.url}#phone", **PHONE, color_scheme=scheme)
    expect(page.locator(JOINED)).to_be_visible()

    ground, ink = lightness_of(page, "body", "backgroundColor"), lightness_of(page, "h1", "color")
    sizes = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")

    assert (ground < 60 and ink > 180) if scheme == "dark" else (ground > 200 and ink < 60)
    assert sizes == [390, 844]


def test_a_template_page_follows_the_room_of_its_address(template: Template, visit: Open) -> None:
    page = visit(template.url)
    expect(page.locator(JOINED)).to_be_visible()
    expect(page.locator("#room")).to_have_value("lobby")

    page.evaluate("location.hash = 'attic'")
    expect(page.locator("#room")).to_have_value("attic")
    wait_until_in(page, template, "attic")

    page.fill("#room", "cellar")
    page.press("#room", "Enter")
    wait_until_in(page, template, "cellar")
    assert page.url.endswith("#cellar")


def wait_until_in(page: Page, template: Template, name: str) -> None:
    """Wait until the only page has moved to a room."""
    page.wait_for_function(
        """async ([rooms, name]) => (await (await fetch(rooms)).json()).filter((room) => room.connections)
            .map((room) => room.name).join() === name""",
        arg=[f"{template.url}api/rooms/", name],
        polling=100,
    )


def test_a_template_page_reconnects_when_its_room_was_restarted(template: Template, visit: Open) -> None:
    page = visit(f"{template.url}#restarted")
    expect(page.locator(JOINED)).to_be_visible()

    reload = (sys.executable, "-m", "scalesocket", "reload", "--restart", template.app, template.file)
    with page.expect_websocket(timeout=PAGE_TIMEOUT):
        subprocess.run(reload, check=True, capture_output=True)

    expect(page.locator(JOINED)).to_be_visible(timeout=PAGE_TIMEOUT)


def test_a_template_page_with_an_invalid_room_name_shows_the_reason_and_stops(template: Template, browser: Browser) -> None:
    page = browser.new_page()  # without a check of the console, into which browsers write each refusal
    page.clock.install()
    page.goto(template.url)
    expect(page.locator(JOINED)).to_be_visible(timeout=PAGE_TIMEOUT)
    tries: list[str] = []
    page.on("websocket", lambda socket: tries.append(socket.url))

    page.evaluate("location.hash = 'tea time'")
    expect(page.locator(".status")).to_have_text("tea time: this is not a name a room can have", timeout=PAGE_TIMEOUT)
    page.clock.fast_forward("01:00")

    expect(page.locator(".status")).to_have_attribute("data-state", "closed")
    assert len(tries) == 1
    page.close()


@pytest.mark.parametrize("template", ["game"], indirect=True)
def test_the_game_is_steered_by_touch(template: Template, visit: Open) -> None:
    page = visit(f"{template.url}#touch", **PHONE)
    moves: list[str] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: moves.append(str(frame))))
    page.reload()
    expect(page.locator("#players li")).to_have_count(1)
    box = page.locator("canvas").bounding_box()
    assert box is not None

    for corner in (0.01, 0.99):  # the player is at most in one of them
        page.touchscreen.tap(box["x"] + box["width"] * corner, box["y"] + box["height"] * corner)

    expect(page.locator("#players li")).to_have_count(1)
    assert any('"move":' in move for move in moves)
