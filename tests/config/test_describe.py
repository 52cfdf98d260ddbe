"""Descriptions of targets, on one line."""

import shlex
import subprocess

import pytest

from scalesocket.config.describe import describe_target, quote_command
from scalesocket.config.model import App, PortRange

WORDS = ("sh", "-c", "echo 'it''s' \"$HOME\"", "a b", "", "tab\there", "two\nlines", "back\\slash\n", "ünï\u202ecode", "it's\n")


def test_a_command_is_quoted_as_a_shell_reads_it() -> None:
    words = WORDS[:5]

    assert tuple(shlex.split(quote_command(words))) == words


def test_bash_reads_back_a_command_with_control_characters() -> None:
    line = quote_command(WORDS)

    assert line.isprintable()
    read = subprocess.run(["bash", "-c", f"LC_ALL=C.UTF-8; printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    assert tuple(read.decode().split("\0")[:-1]) == WORDS


@pytest.mark.parametrize(
    ("app", "target"),
    [
        (App(name="a", command=("python3", "my game.py")), "python3 'my game.py'"),
        (App(name="a", command=("cat",), port=PortRange(9001, 9001)), "cat (tcp, port 9001)"),
        (App(name="a", command=("sh", "-c", "a\nb")), "sh -c $'a\\nb'"),
        (App(name="a", tcp="127.0.0.1:4000"), "tcp 127.0.0.1:4000"),
        (App(name="a", unix="/run/a.sock"), "unix /run/a.sock"),
    ],
    ids=["command", "port", "lines", "tcp", "unix"],
)
def test_a_target_is_described_on_one_line(app: App, target: str) -> None:
    assert describe_target(app) == target
