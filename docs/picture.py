"""Make docs/picture.png, the picture in README: two browsers in one arena, and the log while the site file is edited.

python docs/picture.py      needs Debian's chromium, and the packages of `make install`
"""

import base64
import html
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

ROOT: Final = Path(__file__).parents[1]
PICTURE: Final = ROOT / "docs/picture.png"
ADDRESS: Final = "127.0.0.1:8000"
WINDOW: Final[ViewportSize] = {"width": 1000, "height": 610}
DEADLINE: Final = 20.0

PAGE: Final = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; padding: 18px; width: 1244px; background: #dfe4ee; font: 13px/1.45 system-ui, sans-serif; color: #39415a; }
#windows { display: flex; gap: 14px; }
figure { margin: 0; overflow: hidden; border-radius: 9px; background: #f4f5f8; box-shadow: 0 8px 26px rgb(20 27 45 / 22%); }
figcaption { display: flex; gap: 7px; align-items: center; padding: 7px 12px; }
i { width: 11px; height: 11px; border-radius: 50%; background: #c6ccd9; }
span { flex: 1; padding: 1px 12px; border-radius: 6px; background: #fff; font-size: 12px; }
img { display: block; width: 615px; }
#terminal { margin-top: 14px; background: #10141f; color: #e3e8f5; }
#terminal figcaption { background: #1c2231; color: #98a2b8; }
pre { margin: 0; padding: 9px 14px 12px; font: 12.4px/1.5 "DejaVu Sans Mono", monospace; white-space: pre; }
</style>
<div id="windows">WINDOWS</div>
<figure id="terminal"><figcaption><i></i><i></i><i></i>terminal</figcaption><pre>LOG</pre></figure>"""


class Server:
    """The example site, served from a copy that can be edited."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(ROOT / "examples", folder, dirs_exist_ok=True)
        self.file = folder / "site.toml"
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scalesocket", "serve", "--bind", ADDRESS, "site.toml"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def wait_printed(self, text: str) -> None:
        """Wait until the server has printed a text."""
        wait(lambda: text in "".join(self.lines), f"{text!r} in\n{''.join(self.lines)}")

    def edit(self, before: str, after: str) -> None:
        """Edit the site file."""
        text = self.file.read_text()
        assert before in text
        self.file.write_text(text.replace(before, after))


def wait(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


def join(browser: Browser, name: str) -> Page:
    """Open the arena as a player; Bob's browser uses the dark theme."""
    page = browser.new_page(viewport=WINDOW, color_scheme="dark" if name == "Bob" else "light")
    page.goto(f"http://{ADDRESS}/arena/?name={name}")
    page.wait_for_selector('.status[data-state="open"]')
    return page


def play(pages: list[Page]) -> None:
    """Move through the arena until both players have a few stars."""
    stars = "[...document.querySelectorAll('#players .stars')].map((each) => Number(each.textContent.slice(2)))"
    deadline = time.monotonic() + DEADLINE
    step = 0
    while min(pages[0].evaluate(stars)) < 3 and time.monotonic() < deadline:
        for page, keys in zip(pages, (("d", "s", "a", "w"), ("w", "a", "s", "d")), strict=True):
            page.keyboard.up(keys[(step - 2) % 4])
            page.keyboard.down(keys[step % 4])
        pages[0].wait_for_timeout(300 + 130 * (step % 5))
        step += 1


def render_window(page: Page) -> str:
    """Return the HTML of a browser window that shows a page."""
    shot = base64.b64encode(page.screenshot()).decode()
    address = html.escape(page.url)
    bar = f"<figcaption><i></i><i></i><i></i><span>{address}</span></figcaption>"
    return f'<figure>{bar}<img src="data:image/png;base64,{shot}"></figure>'


def main() -> None:
    """Play, edit the site file, and take the picture."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Server(Path(folder))
        try:
            server.wait_printed("/health")
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            pages = [join(browser, name) for name in ("Ann", "Bob")]
            play(pages)
            server.edit("max_clients = 16", "max_clients = 8")
            server.wait_printed("generation=2")
            server.edit('idle_timeout = "1m"', "idle_timeout = 60")
            server.wait_printed("not reloaded")
            windows = "".join(map(render_window, pages))
            # Remove the name of the temporary folder.
            log = re.sub(re.escape(folder) + "/", "", "".join(server.lines))
            events = [line for line in log.splitlines() if re.match(r"\d{4}-", line)]
            terminal = "\n".join([f"$ scalesocket serve --bind {ADDRESS} site.toml", *events])
            picture = browser.new_page(viewport={"width": 1280, "height": 400})
            picture.set_content(PAGE.replace("WINDOWS", windows).replace("LOG", html.escape(terminal)))
            picture.screenshot(path=PICTURE, full_page=True)
            browser.close()
        finally:
            server.process.terminate()
            server.process.wait(DEADLINE)
    print(f"{PICTURE}: {PICTURE.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
