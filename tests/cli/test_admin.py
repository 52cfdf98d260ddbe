"""The admin surface of a server that was started from the command line."""

import re
import subprocess
from pathlib import Path

import httpx
from websockets.sync.client import connect

from tests.cli.serving import SITE, scalesocket, serving

TOKEN = "correct-horse-battery-staple"


def with_admin(admin: str) -> str:
    return SITE.replace("[server]\n", f"[server]\nadmin = {{ {admin} }}\n")


def test_it_is_announced_and_follows_edits_of_the_site_file_and_of_the_token(file: Path) -> None:
    (file.parent / "token").write_text(TOKEN)
    file.write_text(with_admin('bind = "127.0.0.1:0", token_file = "token"'))
    with serving("serve", str(file)) as server:
        address = re.search(r"admin API at (http://127\.0\.0\.1:\d+)", server.output)
        assert address is not None
        with httpx.Client(base_url=address[1]) as http:
            report = http.post("/admin/reload", json={"dry_run": True}, headers={"Authorization": f"Bearer {TOKEN}"})
            assert (report.status_code, report.json()["is_applied"]) == (200, False)

            (file.parent / "token").write_text("another-" + TOKEN)
            server.wait_output("generation=2")
            assert http.get("/health", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 401
            assert http.get("/health", headers={"Authorization": f"Bearer another-{TOKEN}"}).status_code == 200

        file.write_text(with_admin('bind = "unix:admin.sock"'))
        server.wait_output("generation=3")
        transport = httpx.HTTPTransport(uds=str(file.parent / "admin.sock"))
        with httpx.Client(base_url="http://admin", transport=transport) as http:
            assert http.get("/admin/status").json()["generation"] == 3
        arguments = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        diff = scalesocket("show", str(file)).out

    assert TOKEN not in server.output
    assert TOKEN not in diff
    assert TOKEN.encode() not in arguments


def test_an_address_without_a_token_is_refused_at_load(file: Path) -> None:
    file.write_text(with_admin('bind = "0.0.0.0:0"'))

    checked = scalesocket("check", str(file))
    served = scalesocket("serve", str(file))

    assert (checked.code, served.code) == (78, 78)
    assert "0.0.0.0:0 is open without a token" in served.err


def test_programs_do_not_get_the_token(file: Path) -> None:
    file.write_text(with_admin(f'bind = "127.0.0.1:0", token = "{TOKEN}"').replace('["cat"]', '["sh", "-c", "env; exec cat"]'))
    with serving("serve", str(file)) as server:
        with connect(f"ws://127.0.0.1:{server.port}/chat/lobby") as client:
            client.send("end of the environment")
            printed = ""
            while "end of the environment" not in printed:
                printed += str(client.recv(timeout=10))
        shown = subprocess.run(["ps", "-ef"], capture_output=True, text=True, check=True).stdout

    assert TOKEN not in printed
    assert TOKEN not in shown
