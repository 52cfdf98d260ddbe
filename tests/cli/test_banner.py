"""The banner of a server that is ready."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from scalesocket.cli.banner import format_banner
from scalesocket.config.model import App, Server, Site, Tls
from tests.cli.serving import DEADLINE, ROOT


def banner(*addresses: str, server: Server | None = None, **apps: App) -> str:
    return click.unstyle(format_banner(addresses, Site(server=server or Server(), apps=apps, path=Path("/srv/site.toml"))))


def test_each_app_is_shown_with_its_page_its_rooms_and_its_program() -> None:
    chat = App(name="chat", command=("cat", "-u"), static=Path("/srv/chat"))
    mud = App(name="mud", tcp="127.0.0.1:4000")

    text = banner("127.0.0.1:9000", "unix:/run/site.sock", chat=chat, mud=mud)

    assert "serves /srv/site.toml" in text
    assert "  listening on http://127.0.0.1:9000\n  listening on unix:/run/site.sock\n" in text
    assert "  chat  http://127.0.0.1:9000/chat/\n        ws://127.0.0.1:9000/chat/ROOM  cat -u\n" in text
    assert "  mud   ws://127.0.0.1:9000/mud/ROOM  tcp 127.0.0.1:4000\n" in text


def test_the_number_of_workers_is_shown_and_what_auto_became() -> None:
    def lines(setting: Any, workers: int) -> list[str]:
        site = Site(server=Server(workers=setting), apps={}, path=None)
        return [line for line in format_banner([], site, workers=workers).splitlines() if "worker" in line]

    assert lines(1, 1) == []
    assert lines(3, 3) == ["  3 workers are ready"]
    assert lines("auto", 4) == ['  4 workers are ready, one for each CPU (workers = "auto")']
    assert lines("auto", 1) == ['  one process, because the server may use one CPU (workers = "auto")']


def test_an_app_without_a_target_is_shown_as_pages() -> None:
    text = banner("127.0.0.1:9000", home=App(name="home", mount="/", static=Path("/srv/home")))

    assert "  home  http://127.0.0.1:9000/  pages\n" in text
    assert "ws://" not in text


def test_a_command_is_cut_to_the_width_of_the_terminal() -> None:
    apps = {"chat": App(name="chat", command=("sh", "-c", "while true\ndo sleep 1; done # " + "x" * 80))}
    site = Site(server=Server(), apps=apps)

    for width, end in ((80, "  sh -c $'while true\\ndo sleep 1; done # x…"), (None, "x'"), (41, "ROOM")):
        lines = click.unstyle(format_banner(["127.0.0.1:9000"], site, width)).splitlines()
        line = next(line for line in lines if "/ROOM" in line)
        assert line.endswith(end), width
        assert width is None or len(line) <= width


def test_a_listener_on_every_interface_is_shown_as_this_machine() -> None:
    text = banner("0.0.0.0:9000", app=App(name="app", mount="/", command=("cat",)))

    assert "listening on http://0.0.0.0:9000  (all addresses: other machines can connect)\n" in text
    assert "  app  ws://127.0.0.1:9000/ROOM  cat" in text


def test_a_command_line_on_all_addresses_gets_the_flag_for_this_machine_only() -> None:
    site = Site(server=Server(), apps={"app": App(name="app", mount="/", command=("cat",))})

    text = click.unstyle(format_banner(["0.0.0.0:9000", "[::]:9000", "127.0.0.1:9001"], site))

    for address, local in (("0.0.0.0:9000", "127.0.0.1:9000"), ("[::]:9000", "[::1]:9000")):
        note = f"(all addresses: other machines can connect; for this machine only: --bind {local})"
        assert f"http://{address}  {note}" in text
    assert "http://127.0.0.1:9001\n" in text


def test_with_tls_the_urls_are_https_and_wss() -> None:
    server = Server(tls=Tls(certificate=Path("/srv/a.pem"), key=Path("/srv/a.key")))

    text = banner("[::]:443", server=server, chat=App(name="chat", command=("cat",)))

    assert "wss://[::1]:443/chat/ROOM" in text
    assert "https://[::1]:443/health" in text


def test_endpoints_that_are_off_are_not_shown() -> None:
    text = banner("127.0.0.1:1", server=Server(metrics=False, api=False), chat=App(name="chat", command=("cat",)))

    assert "/health" in text
    assert "/metrics" not in text
    assert "/api" not in text


def test_a_unix_socket_alone_has_no_urls() -> None:
    text = banner("unix:/run/site.sock", chat=App(name="chat", command=("cat",)))

    assert "  chat  /chat/ROOM  cat" in text


def test_a_banner_that_cannot_be_written_does_not_stop_the_server(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[server]\nbind = "127.0.0.1:0"\n[apps.chat]\ncommand = "cat"\n')
    reader, unread = os.pipe()
    os.close(reader)
    ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ready.bind(str(tmp_path / "ready"))
    ready.settimeout(DEADLINE)
    with (
        ready,
        subprocess.Popen(
            [sys.executable, "-m", "scalesocket", "serve", "site.toml"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(tmp_path / "ready")},
            stdout=unread,
            stderr=subprocess.PIPE,
            text=True,
        ) as server,
    ):
        os.close(unread)
        assert b"READY=1" in ready.recv(4096)

        server.terminate()

        assert server.stderr is not None
        text = server.stderr.read()
        assert server.wait(DEADLINE) == 0, text
    assert "Traceback" not in text
