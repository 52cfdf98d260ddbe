"""What a real browser makes of the pages and files of a site."""

import gzip
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.examples.listening import run_until_listening

CHROMIUM: Final = shutil.which("chromium")
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

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt-get install chromium)")


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
