"""A page that a real browser loads over TLS, and the protocol of its websocket."""

import shutil
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.examples.browsing import NEEDS_CHROMIUM, PAGE_TIMEOUT, SERVE, Open
from tests.examples.listening import run_until_listening

pytestmark = [
    NEEDS_CHROMIUM,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl"),
]

SITE = """
[server]
control = "off"
tls = { certificate = "site.pem", key = "site.key" }
http2_websockets = %s

[apps.chat]
command = ["sh", "-c", 'echo "$SERVER_PROTOCOL"; exec cat']
static = "page"
"""
PAGE = """<!doctype html><title>Protocols</title><link rel=icon href="data:,"><p id=page></p><p id=websocket></p><script>
document.querySelector("#page").textContent = performance.getEntriesByType("navigation")[0].nextHopProtocol;
const socket = new WebSocket(`wss://${location.host}/chat/lobby`);
socket.onmessage = (event) => { document.querySelector("#websocket").textContent += event.data; };
socket.onopen = () => { socket.send(" and an echo"); };
</script>
"""


@pytest.mark.parametrize(("is_offered", "protocol"), [("false", "HTTP/1.1"), ("true", "HTTP/2")])
def test_a_page_uses_http2_and_its_websocket_http1_by_default(
    visit: Open, tmp_path: Path, is_offered: str, protocol: str
) -> None:
    wanted = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    files = ("-out", "site.pem", "-keyout", "site.key")
    subprocess.run(["openssl", *wanted.split(), *files], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "page").mkdir()
    (tmp_path / "page/index.html").write_text(PAGE)
    (tmp_path / "site.toml").write_text(SITE % is_offered)
    with run_until_listening(*SERVE, str(tmp_path / "site.toml")) as address:
        page = visit(f"https://{address}/chat/", ignore_https_errors=True)

        expect(page.locator("#page")).to_have_text("h2", timeout=PAGE_TIMEOUT)
        expect(page.locator("#websocket")).to_have_text(f"{protocol} and an echo", timeout=PAGE_TIMEOUT)
