"""Text for a terminal: aligned, and cut to its width."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from scalesocket.cli.columns import cut, format_table, width_of
from tests.cli.serving import DEADLINE, ROOT, scalesocket, serving

HEAD = ("APP", "TARGET", "PID")
ROWS = [("chat", "cat", "1"), ("mud", "python3 " + "x" * 100, "22"), ("東京", "é\u0301" * 3, "3")]


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abc", None, "abc"),
        ("a" * 10, 10, "a" * 10),
        ("a" * 11, 10, "a" * 9 + "…"),
        ("東" * 5, 10, "東" * 5),
        ("東" * 6, 10, "東" * 4 + "…"),
        ("a" * 11, -5, "a" * 7 + "…"),
    ],
)
def test_a_text_is_cut_to_a_width(text: str, width: int | None, shown: str) -> None:
    assert cut(text, width) == shown


@pytest.mark.parametrize("width", [None, 80, 40, 5])
def test_the_columns_of_a_table_are_aligned(width: int | None) -> None:
    lines = list(format_table(HEAD, ROWS, elastic="TARGET", width=width))

    starts = {width_of(line[: re.search(r"(PID|\d+)$", line).start()]) for line in lines}  # type: ignore[union-attr]
    assert len(starts) == 1
    assert all(width_of(line) <= max(width or 1000, 24) for line in lines)
    assert ("…" in "".join(lines)) == (width is not None)


def on_terminal(*words: str, columns: int) -> list[str]:
    """Return what a command line prints on a terminal of `columns` columns."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "scalesocket", *words]
    with subprocess.Popen(command, stdout=its, env={**environment, "PYTHONPATH": str(ROOT)}) as process:
        os.close(its)
        text = b""
        try:
            while chunk := os.read(ours, 65536):
                text += chunk
        except OSError:  # all its ends are closed
            pass
        os.close(ours)
        assert process.wait(DEADLINE) == 0
    return re.sub(r"\x1b\[[\d;]*m", "", text.decode()).splitlines()


def test_status_fits_a_terminal_and_counts_crashes(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(
        '[server]\nbind = "127.0.0.1:0"\n[apps.crash]\ncommand = ["sh", "-c", "exit 3"]\n'
        f"[apps.good]\ncommand = ['sh', '-c', '''\nexec cat # {'x' * 100}\n''']\n"
    )
    with serving("serve", str(file)) as server:
        for _ in range(2):
            with connect(f"ws://127.0.0.1:{server.port}/crash/room") as client, pytest.raises(ConnectionClosed):
                client.recv(timeout=10)
        room = "r" * 100
        with connect(f"ws://127.0.0.1:{server.port}/good/{room}") as client:
            client.send("hi")
            client.recv(timeout=10)

            shown = on_terminal("status", "--rooms", str(file), columns=80)
            whole = scalesocket("status", "--rooms", str(file)).out

    assert [line.split()[:7] for line in shown[2:4]] == [
        ["APP", "ROOMS", "CLIENTS", "STARTS", "FAILED", "CRASHED", "TARGET"],
        ["crash", "0", "0", "2", "0", "2", "sh"],
    ]
    assert max(map(len, shown)) == 80
    assert shown[4].split()[:6] == ["good", "1", "1", "1", "0", "0"]
    assert "sh -c $'" in shown[4]
    assert shown[4].endswith("…")
    assert any("rrr…  open" in line for line in shown)
    assert room in whole
    assert "x" * 100 in whole
