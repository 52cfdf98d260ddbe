"""What everybody may know of an edit that was refused."""

from pathlib import Path

import pytest

from scalesocket.config.load import load_site
from scalesocket.config.problems import ConfigError
from scalesocket.errors import ScalesocketError
from scalesocket.reload.public_error import redact_error


@pytest.mark.parametrize(
    ("line", "public"),
    [
        ("env = { PIN = 4711 }", "site.toml:3:15: apps.a.env.PIN: must be a string, not an integer"),
        ("user = s3cret-token", "site.toml:3:8: not valid TOML: a string needs quotes"),
        ('routing = "it\'s (s3cret)"', "site.toml:3:11: apps.a.routing: unknown value"),
        ('cwd = ".."\ncommand_ = "x"', "site.toml:4:1: apps.a.command_: unknown key"),
        ('user = "${SECRET:?call 4711}"', "site.toml:3:8: apps.a.user: the variable SECRET is not set"),
        ("max_clients = -4711", "site.toml:3:15: apps.a.max_clients: must be at least 1"),
        ('command = "no-such-program"', "site.toml:3:1: not valid TOML: apps.a.command is set already, in line 2"),
        ("mode = 1", "site.toml:3:1: apps.a.mode: unknown key"),
        ("mode = 1\nmood = 2", "site.toml:3:1: apps.a.mode: unknown key (and 1 more)"),
    ],
)
def test_a_public_error_has_no_values_paths_or_hints(tmp_path: Path, line: str, public: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(f'[apps.a]\ncommand = "cat"\n{line}\n')

    with pytest.raises(ConfigError) as refused:
        load_site(path, {})

    assert redact_error(refused.value) == public


def test_values_of_other_errors_are_removed_too() -> None:
    assert (
        redact_error(ScalesocketError("server.bind: can't listen at unix socket")) == "server.bind: can't listen at unix socket"
    )
    assert redact_error(ScalesocketError("'/a/secret' is no file")) == "… is no file"
    assert (
        redact_error(ScalesocketError("server.bind: can't listen at unix:/a/x.sock: in use"))
        == "server.bind: can't listen at … in use"
    )
    assert redact_error(ScalesocketError("it is '/a/secret' (and that)")) == "it is"
