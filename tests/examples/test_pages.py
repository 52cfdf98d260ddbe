"""The example site in a real browser: pages that play together, without errors in their consoles."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, expect
from websockets.sync.client import connect

from tests.examples.browsing import JOINED, NEEDS_CHROMIUM, PAGE_TIMEOUT, PHONE, SERVE, Open
from tests.examples.listening import run_until_listening

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def site(examples: Path) -> Iterator[str]:
    """The URL of the example site, which runs with its TCP server."""
    with (
        run_until_listening(sys.executable, str(examples / "mud/mud.py"), "127.0.0.1:0") as mud,
        run_until_listening(*SERVE, str(examples / "site.toml"), MUD_PORT=mud.rpartition(":")[2]) as address,
    ):
        yield f"http://{address}"


def test_the_start_page_links_every_app_and_counts_its_clients(site: str, visit: Open) -> None:
    guest = visit(f"{site}/chat/?room=counted")
    expect(guest.locator(JOINED)).to_be_visible()

    start = visit(f"{site}/")

    expect(start.locator("[data-app=chat] .count")).to_have_text(re.compile(r"\d+ online"), timeout=PAGE_TIMEOUT)
    for name in ("chat", "arena", "mud", "whiteboard", "editor"):
        assert start.request.get(f"{site}/{name}/").ok


def test_two_pages_of_chat_receive_each_others_messages(site: str, visit: Open) -> None:
    ann = visit(f"{site}/chat/?room=two&name=Ann")
    expect(ann.locator("#people")).to_contain_text("Ann (you)")
    bob = visit(f"{site}/chat/?room=two&name=Bob%20B.")
    expect(ann.locator("#people")).to_contain_text("Bob B.")
    expect(bob.locator("#people")).to_contain_text("Ann")

    for page, text in ((ann, "hello <b>Bob</b>"), (bob, "hello Ann")):
        page.fill("#text", text)
        page.press("#text", "Enter")

    for page in (ann, bob):
        expect(page.locator(".said .text")).to_have_text(["hello <b>Bob</b>", "hello Ann"])
    expect(ann.locator(".mine .text")).to_have_text("hello <b>Bob</b>")


def test_a_new_client_of_the_chat_receives_the_history(site: str, visit: Open) -> None:
    ann = visit(f"{site}/chat/?room=history&name=Ann")
    expect(ann.locator("#people")).to_contain_text("Ann (you)")
    ann.fill("#text", "is anybody here?")
    ann.press("#text", "Enter")
    expect(ann.locator(".said .text")).to_have_text("is anybody here?")

    bob = visit(f"{site}/chat/?room=history&name=Bob")

    expect(bob.locator(".said")).to_have_count(1)
    expect(bob.locator(".said .who b")).to_have_text("Ann")
    expect(bob.locator(".event")).to_have_text("you joined history")


def test_a_client_that_leaves_the_chat_is_removed_from_the_list(site: str, visit: Open) -> None:
    ann = visit(f"{site}/chat/?room=leaving&name=Ann")
    bob = visit(f"{site}/chat/?room=leaving&name=Bob")
    expect(ann.locator("#people li")).to_have_count(2)

    bob.close()

    expect(ann.locator(".event").last).to_have_text("Bob left")
    expect(ann.locator("#people li")).to_have_count(1)


def test_two_players_of_the_arena_see_each_other_move(site: str, visit: Open) -> None:
    ann = visit(f"{site}/arena/?room=duel&name=Ann")
    bob = visit(f"{site}/arena/?room=duel&name=Bob")
    for page in (ann, bob):
        expect(page.locator("#players li")).to_have_count(2)
        expect(page.locator("#players")).to_contain_text("Ann")
        expect(page.locator("#players")).to_contain_text("Bob")

    for page, name, key, edge in ((ann, "Ann", "ArrowRight", (1500, 1600)), (bob, "Bob", "a", (0, 100))):
        page.locator("canvas").focus()
        page.keyboard.down(key)
        for watcher in (ann, bob):
            watcher.wait_for_function(
                """([name, from, to]) => [...document.querySelectorAll("#players li")].some((player) =>
                    player.textContent.startsWith(name) && player.dataset.x >= from && player.dataset.x <= to)""",
                arg=[name, *edge],
            )


def test_a_player_that_leaves_the_arena_is_removed(site: str, visit: Open) -> None:
    ann = visit(f"{site}/arena/?room=leaving&name=Ann")
    bob = visit(f"{site}/arena/?room=leaving&name=Bob")
    expect(ann.locator("#players li")).to_have_count(2)

    bob.close()

    expect(ann.locator("#players li")).to_have_count(1)
    expect(ann.locator("#players")).to_contain_text("Ann")


def test_heroes_of_two_rooms_meet_in_the_world_of_one_tcp_server(site: str, visit: Open) -> None:
    red = visit(f"{site}/mud/?room=red")
    expect(red.locator("#log")).to_contain_text("Welcome, hero of red")
    blue = visit(f"{site}/mud/?room=blue")
    expect(red.locator("#log")).to_contain_text("The hero of blue steps out of the mist.")

    blue.fill("#order", "say hello red")
    blue.press("#order", "Enter")
    expect(red.locator("#log")).to_contain_text('The hero of blue says: "hello red"')
    blue.get_by_role("button", name="north").click()

    expect(blue.locator("#log")).to_contain_text("The Court")
    expect(red.locator("#log")).to_contain_text("The hero of blue goes north.")


def test_a_note_on_the_whiteboard_is_written_and_moved_for_everyone(site: str, visit: Open) -> None:
    ann = visit(f"{site}/whiteboard/?room=notes&name=Ann")
    bob = visit(f"{site}/whiteboard/?room=notes&name=Bob")
    expect(bob.locator("#people")).to_contain_text("Ann")

    ann.get_by_role("button", name="Add a note").click()
    expect(ann.locator(".note textarea")).to_be_focused()
    ann.keyboard.type("buy milk")
    expect(bob.locator(".note textarea")).to_have_value("buy milk")
    grip = bob.locator(".note .grip").bounding_box()
    assert grip is not None
    bob.mouse.move(grip["x"] + 20, grip["y"] + 8)
    bob.mouse.down()
    bob.mouse.move(420, 400, steps=6)
    bob.mouse.up()

    place = "[document.querySelector('.note').style.left, document.querySelector('.note').style.top].join()"
    ann.wait_for_function(f"place => {place} === place", arg=bob.evaluate(place))
    carl = visit(f"{site}/whiteboard/?room=notes&name=Carl")
    expect(carl.locator(".note textarea")).to_have_value("buy milk")


def test_two_authors_that_type_at_once_end_with_the_same_text(site: str, visit: Open) -> None:
    ann = visit(f"{site}/editor/?room=text&name=Ann")
    bob = visit(f"{site}/editor/?room=text&name=Bob")
    for page, place in ((ann, "0"), (bob, "field.value.length")):
        expect(page.locator("#text")).to_be_enabled()
        page.focus("#text")
        page.eval_on_selector("#text", f"field => field.setSelectionRange({place}, {place})")

    for number in range(20):
        for page, word in ((ann, f"ann{number} 😀 "), (bob, f"bob{number}\n")):
            page.keyboard.insert_text(word)

    start = "".join(f"ann{number} 😀 " for number in range(20))
    end = "".join(f"bob{number}\n" for number in range(20))
    for page in (ann, bob):
        expect(page.locator("#text")).to_have_value(
            re.compile(f"^{re.escape(start)}[^😀]+{re.escape(end)}$"), timeout=PAGE_TIMEOUT
        )
    assert ann.input_value("#text") == bob.input_value("#text")


def test_the_terminal_shows_what_its_shell_prints(examples: Path, visit: Open) -> None:
    file = examples / "terminal.toml"
    # Its origins name the port of the example; the test uses another port.
    file.write_text(re.sub(r"^origins = .*$", "", file.read_text(), flags=re.MULTILINE))
    with run_until_listening(*SERVE, str(file)) as address:
        page = visit(f"http://{address}/terminal/")
        expect(page.locator(JOINED)).to_be_visible()

        page.locator(".xterm-helper-textarea").focus()
        page.keyboard.type("echo $((6 * 7))yes\n")

        expect(page.locator(".xterm-accessibility-tree")).to_contain_text("42yes")
        page.close()  # before its server ends, because a failed reconnect is an error in the console


def test_the_terminal_fits_a_phone_and_a_later_client_sees_the_same(examples: Path, visit: Open) -> None:
    file = examples / "terminal.toml"
    file.write_text(re.sub(r"^origins = .*$", "", file.read_text(), flags=re.MULTILINE))
    with run_until_listening(*SERVE, str(file)) as address:
        large = visit(f"http://{address}/terminal/#shared", width=1280)
        expect(large.locator(JOINED)).to_be_visible()
        large.keyboard.type("printf 'first%s\\n' line\n")
        expect(large.locator(".xterm-accessibility-tree")).to_contain_text("firstline")

        phone = visit(f"http://{address}/terminal/#shared", **PHONE)
        expect(phone.locator(JOINED)).to_be_visible()
        expect(phone.locator(".xterm-accessibility-tree")).to_contain_text("firstline")
        phone.locator(".xterm-helper-textarea").focus()
        phone.keyboard.type("echo columns $(stty size | cut -d' ' -f2)\n")
        expect(phone.locator(".xterm-accessibility-tree")).to_contain_text(re.compile("columns [34][0-9]"))
        expect(large.locator(".xterm-accessibility-tree")).to_contain_text(re.compile("columns [34][0-9]"))

        for page in (large, phone):
            assert is_within(page, ".xterm-screen", "#window")
        phone.get_by_role("button", name="^C").click()
        expect(large.locator(".xterm-accessibility-tree")).to_contain_text("^C")
        for page in (large, phone):
            page.close()


# -- phones


@pytest.mark.parametrize("app", ["chat", "arena", "mud", "whiteboard", "editor"])
def test_a_page_fits_a_phone_in_the_dark(site: str, visit: Open, app: str) -> None:
    names = [letter * 24 for letter in "abc"]  # as long as names may be
    pages = [visit(f"{site}/{app}/?room=phones&name={name}", **PHONE, color_scheme="dark") for name in names]
    for page in pages:
        expect(page.locator(JOINED)).to_be_visible()
    page = pages[-1]
    if app in ("chat", "arena", "whiteboard", "editor"):
        expect(page.locator("#people li, #players li")).to_have_count(3)

    assert page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [390, 844]
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 26)"


OVERLAPS: Final = """() => {
    // What is to be read or pressed, and lies over something else of that kind, or outside of the window.
    const kinds = "button, input, textarea, canvas, #log, .board, .tools, .how, header, #surface, aside";
    const shown = [...document.querySelectorAll(kinds)].filter((each) => each.checkVisibility() && !each.closest(".note"));
    const wrong = [];
    for (const a of shown) {
        const one = a.getBoundingClientRect();
        if (one.left < -1 || one.top < -1 || one.right > innerWidth + 1 || one.bottom > innerHeight + 1) wrong.push([a]);
        for (const b of shown) {
            if (a === b || a.contains(b) || b.contains(a)) continue;
            const two = b.getBoundingClientRect();
            const isBeside = one.right <= two.left + 1 || two.right <= one.left + 1;
            if (!isBeside && one.bottom > two.top + 1 && two.bottom > one.top + 1) wrong.push([a, b]);
        }
    }
    return wrong.map((each) => each.map((part) => part.outerHTML.slice(0, 60)).join(" | "));
}"""


def test_the_arena_fills_a_phone_and_is_steered_by_a_finger(site: str, visit: Open) -> None:
    page = visit(f"{site}/arena/?room=touched&name=Ann", **PHONE)
    expect(page.locator("#players li")).to_have_count(1)
    expect(page.get_by_text("Drag anywhere")).to_be_visible()
    expect(page.locator(".keys")).to_be_hidden()
    canvas = page.locator("canvas").bounding_box()
    assert canvas is not None
    assert canvas["width"] == 390
    assert canvas["height"] > 844 * 0.65
    # The corners show the arena, not the background around it.
    corners = "[[3, 3], [canvas.width - 4, canvas.height - 4]]"
    drawn = f"canvas => {corners}.map(([x, y]) => canvas.getContext('2d').getImageData(x, y, 1, 1).data[3])"
    assert page.locator("canvas").evaluate(drawn) == [255, 255]

    with finger(page, canvas["x"] + 100, canvas["y"] + 200) as drag:
        drag(180, 0)

        page.wait_for_function("Number(document.querySelector('#players li').dataset.x) > 1500")
    page.get_by_role("button", name="Dash").tap()


def test_a_finger_draws_on_the_whiteboard_for_everyone(site: str, visit: Open) -> None:
    ann = visit(f"{site}/whiteboard/?room=drawn&name=Ann", **PHONE)
    bob = visit(f"{site}/whiteboard/?room=drawn&name=Bob")
    expect(bob.locator("#people li")).to_have_count(2)
    surface = ann.locator("#surface").bounding_box()
    assert surface is not None

    with finger(ann, surface["x"] + 50, surface["y"] + 50) as drag:
        for step in range(1, 11):
            drag(step * 20, step * 30)

    def points_of(page: Page) -> list[str]:
        return (page.locator("#lines polyline").get_attribute("points") or "").split()

    expect(bob.locator("#lines polyline")).to_have_count(1)
    bob.wait_for_function(
        f"document.querySelector('#lines polyline').getAttribute('points').trim().split(' ').length === {len(points_of(ann))}"
    )
    assert len(points_of(ann)) > 5
    assert points_of(bob) == points_of(ann)
    assert ann.evaluate("[scrollX, scrollY]") == [0, 0]
    carl = visit(f"{site}/whiteboard/?room=drawn&name=Carl")
    expect(carl.locator("#lines polyline")).to_have_count(1)

    bob.get_by_role("button", name="Wipe lines").click()
    for page in (ann, bob, carl):
        expect(page.locator("#lines polyline")).to_have_count(0)


@contextmanager
def finger(page: Page, x: float, y: float) -> Iterator[Callable[[float, float], object]]:
    """Put a finger down, yield a function that moves it by an offset, and lift it."""
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *points: dict[str, float]) -> None:
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": list(points)})

    touch("touchStart", {"x": x, "y": y})
    yield lambda right, down: touch("touchMove", {"x": x + right, "y": y + down})
    touch("touchEnd")


def test_invalid_messages_of_other_clients_break_no_page_of_the_chat(site: str, visit: Open) -> None:
    page = visit(f"{site}/chat/?room=rubbish&name=Ann")
    expect(page.locator("#people")).to_contain_text("Ann (you)")
    values: list[object] = [None, 1, [], {}, "x", 1e308, True]

    with connect(f"{site.replace('http', 'ws')}/chat/rubbish", max_queue=None) as client:
        for value in values:
            for kind in ("Say", "Here", "Name", "join", "leave", "constructor", "__proto__", value):
                for key in ("name", "text", "at"):
                    good = {"name": "Eve", "text": "good", "at": 1}
                    client.send(json.dumps({**good, "t": kind, key: value, "_cache": True}))
        client.send(json.dumps({"t": "Say", "name": "Eve", "text": "the end", "at": 1}))

        expect(page.locator(".said .text").last).to_have_text("the end")
    bob = visit(f"{site}/chat/?room=rubbish&name=Bob")
    expect(bob.locator("#people")).to_contain_text("Ann")


def test_on_a_narrow_phone_no_text_or_field_is_cut_off(site: str, visit: Open) -> None:
    chat = visit(f"{site}/chat/?name={'n' * 24}", width=360)  # as long as names may be
    mud = visit(f"{site}/mud/", width=360)
    arena = visit(f"{site}/arena/", width=360)
    for page in (chat, mud, arena):
        expect(page.locator(JOINED)).to_be_visible()

    assert chat.locator("#name").evaluate("field => field.scrollWidth <= field.clientWidth")
    assert width_of(mud, "#order") > 200
    assert arena.locator(".keys").evaluate("line => line.offsetHeight") <= 48


def is_within(page: Page, inner: str, outer: str) -> bool:
    return bool(
        page.evaluate(
            """([inner, outer]) => {
                const [a, b] = [inner, outer].map((selector) => document.querySelector(selector).getBoundingClientRect());
                return a.left >= b.left - 1 && a.top >= b.top - 1 && a.right <= b.right + 1 && a.bottom <= b.bottom + 1;
            }""",
            [inner, outer],
        )
    )


def width_of(page: Page, selector: str) -> float:
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["width"]


# -- rooms that cannot be joined. Browsers write each refusal into the console, so these tests do not check it.


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    page.set_default_timeout(PAGE_TIMEOUT)
    yield page
    page.close()


@pytest.mark.parametrize("name", ["not a name", "..", "x" * 129])
def test_a_page_with_an_invalid_room_name_shows_the_reason_and_stops(site: str, page: Page, name: str) -> None:
    tries = tries_of(page)
    page.clock.install()

    page.goto(f"{site}/chat/?room={name}")
    expect(page.locator(".status")).to_have_text(f"{name}: this is not a name a room can have", timeout=PAGE_TIMEOUT)
    page.clock.fast_forward("01:00")

    expect(page.locator(".status")).to_have_attribute("data-state", "closed")
    assert len(tries) == 1


def test_a_page_that_is_refused_repeatedly_stops(examples: Path, page: Page) -> None:
    listed = examples / "listed.toml"
    listed.write_text('[apps.chat]\ncommand = "cat"\nrouting = "json"\nrooms = ["lobby"]\nstatic = "chat/page"\n')
    tries = tries_of(page)

    with run_until_listening(*SERVE, str(listed)) as address:
        page.goto(f"http://{address}/chat/?room=attic")
        expect(page.locator(".status")).to_have_text(
            re.compile("^the server refuses room attic *join again$"), timeout=PAGE_TIMEOUT
        )

    assert len(tries) == 3


def test_a_page_that_its_program_closes_does_not_reconnect(examples: Path, page: Page) -> None:
    strict = examples / "strict.toml"
    strict.write_text('[apps.chat]\ncommand = "cat"\nrouting = "json"\nclient_keys = ["_to", "_close"]\nstatic = "chat/page"\n')
    tries = tries_of(page)
    page.clock.install()

    with run_until_listening(*SERVE, str(strict)) as address:
        page.goto(f"http://{address}/chat/?room=strict")
        expect(page.locator(JOINED)).to_be_visible()
        with connect(f"ws://{address}/chat/strict") as other:
            other.send(json.dumps({"_to": 1, "_close": 4000, "reason": "no shouting"}))
            expect(page.locator(".status")).to_contain_text("no shouting")
        page.clock.fast_forward("01:00")

    expect(page.locator(".status")).to_have_attribute("data-state", "closed")
    assert len(tries) == 1


def test_a_page_whose_message_was_too_long_does_not_reconnect(site: str, page: Page) -> None:
    tries = tries_of(page)
    page.clock.install()
    page.goto(f"{site}/chat/?room=verbose")
    expect(page.locator(JOINED)).to_be_visible()

    page.locator("#text").evaluate("field => field.value = 'x'.repeat(2 ** 20 + 1)")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".status")).to_contain_text("max_message")
    page.clock.fast_forward("01:00")

    expect(page.locator(".status")).to_have_attribute("data-state", "closed")
    assert len(tries) == 1


def test_a_page_reconnects_to_a_room_that_was_restarted(site: str, page: Page, examples: Path) -> None:
    tries = tries_of(page)
    page.goto(f"{site}/chat/?room=restarted")
    expect(page.locator(JOINED)).to_be_visible()

    with page.expect_websocket(timeout=PAGE_TIMEOUT):
        subprocess.run([*SERVE[:3], "reload", "--restart", "chat", examples / "site.toml"], check=True, capture_output=True)

    expect(page.locator(JOINED)).to_be_visible(timeout=PAGE_TIMEOUT)

    assert len(tries) == 2


def tries_of(page: Page) -> list[str]:
    """A list to which the websockets of a page are added when it opens them."""
    tries: list[str] = []
    page.on("websocket", lambda socket: tries.append(socket.url))
    return tries
