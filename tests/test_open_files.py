"""Limits of open files that are hardly enough for a server to start, or too low."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.cli.serving import DEADLINE, serving

SITE: Final = """
[server]
bind = ["127.0.0.1:0", "unix:site.sock"]
workers = {workers}
control = "control.sock"
admin = {{ bind = "unix:admin.sock" }}

[apps.chat]
command = ["cat"]
static = "."
"""


def limited(limit: int, kind: str = "") -> tuple[str, ...]:
    return ("sh", "-c", f'ulimit -{kind}n {limit}; exec "$@"', "sh")


def refuse(folder: Path, wrapper: tuple[str, ...]) -> str:
    """Start a server that does not start; return the only line that it writes."""
    started = subprocess.run(
        [*wrapper, sys.executable, "-m", "scalesocket", "serve", "site.toml", "--no-watch"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert started.returncode == 1
    assert started.stdout == ""
    (line,) = started.stderr.splitlines()
    return line


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_starts_with_as_many_open_files_as_the_error_of_a_lower_limit_asks_for(tmp_path: Path, workers: int) -> None:
    (tmp_path / "site.toml").write_text(SITE.format(workers=workers))

    line = refuse(tmp_path, limited(20))

    asked = re.fullmatch(
        r"Error: the hard limit of open files is 20, and the server needs at least (\d+) to start "
        r"\(raise it: LimitNOFILE= of systemd, or ulimit -n\)",
        line,
    )
    assert asked is not None, line
    with serving("serve", "site.toml", cwd=tmp_path, wrapper=limited(int(asked[1]))) as server:
        server.send_signal(signal.SIGTERM)
        assert server.wait_ended() == 0
    assert "Traceback" not in server.output


def test_a_soft_limit_that_is_too_low_for_the_spawner_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SITE.format(workers=1))

    assert refuse(tmp_path, limited(12, "S")).startswith(
        "Error: the soft limit of open files is 12, and the server needs at least "
    )
