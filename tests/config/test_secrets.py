"""Secret keys are masked wherever configuration is shown, and may come from files."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel

from scalesocket.config.keys import live_key
from scalesocket.config.model import App, Server, Site, Tls
from scalesocket.config.parse import parse_site
from scalesocket.config.problems import ConfigError, Problem
from scalesocket.config.render import render_site, site_record
from scalesocket.config.schema import table_schema
from scalesocket.config.secret_files import read_table_secrets
from scalesocket.config.secrets import is_secret, mask_assignments, mask_secrets, secret_names
from scalesocket.config.site_file import SiteFile
from scalesocket.config.toml_document import parse_document


class Login(BaseModel):
    """A table with secrets of every kind."""

    token: Annotated[str | None, live_key("what clients show", secret=True)] = None
    key: Annotated[Path | None, live_key("a file", secret=True)] = None
    user: Annotated[str, live_key("who")] = "ann"


class Door(BaseModel):
    """A table with an inner table."""

    login: Annotated[Login, live_key("who may enter")] = Login()


def read(text: str, folder: Path) -> tuple[dict[str, object], list[str]]:
    """Read the secret files of a `[door]` table; return the table and the problems."""
    problems: list[Problem] = []
    source = SiteFile(parse_document(text, folder / "site.toml"), {}, problems)
    read_table_secrets(source, ("door",), Door, Path.read_text)
    return source.tables["door"], [f"{problem.key}: {problem.message}" for problem in problems]


def test_the_declaration_of_a_key_makes_it_a_secret() -> None:
    assert is_secret(Server, ("tls", "key"))
    assert not is_secret(Server, ("tls", "certificate"))
    assert secret_names(Server, App) == {"key", "secret", "token"}
    assert mask_secrets(Door, {"login": {"token": "abc", "user": "bob"}}) == {"login": {"token": "***", "user": "bob"}}


def test_a_site_is_shown_without_its_secrets() -> None:
    site = Site(
        server=Server(tls=Tls(certificate=Path("/pub.pem"), key=Path("/hidden.key"))),
        apps={"chat": App(name="chat", command=["cat"])},
    )

    assert site_record(site)["server"]["tls"] == {"certificate": "/pub.pem", "key": "***"}
    assert "/pub.pem" in render_site(site)
    assert "hidden" not in render_site(site)


@pytest.mark.parametrize(
    "line",
    [
        'tls = { certificate = 5, key = "hidden" }',
        'tls = { key = "hidden", "certificate" = 5 }',
        'tls = { certificate = "c", key = ["hidden"] }',
        'tls = { certificate = "c", key = "hidden${NOPE}" }',
        'tls = { certificate = "c", key = "hidden" ',
        'tls = { certificate = "c", "key" = "hidden", = }',
        'tls = { key = """\n  hidden \\q\n""" }',
        "tls = { key = '''\n  hidden\n",
        'tls = { key = [\n  "hidden" ] ] }',
    ],
)
def test_errors_next_to_a_secret_do_not_show_it(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_site(f'apps.chat.command = "cat"\n[server]\n{line}', Path("site.toml"), {})

    rendered = caught.value.render()
    assert "hidden" not in rendered
    assert "***" in rendered


def test_masks_do_not_move_columns() -> None:
    assert mask_assignments('a = 1\n key="x" # no\nmonkey = "y"', frozenset({"key"})) == 'a = 1\n key=********\nmonkey = "y"'


def test_a_secret_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")

    table, problems = read('[door.login]\ntoken_file = "token"', tmp_path)

    assert table == {"login": {"token": "abc"}}
    assert problems == []


def test_only_secret_strings_can_be_given_as_files(tmp_path: Path) -> None:
    table, _ = read('[door.login]\nuser_file = "x"\nkey_file = "x"', tmp_path)

    assert table == {"login": {"user_file": "x", "key_file": "x"}}
    assert "token_file" in table_schema(Login)["properties"]
    assert "user_file" not in table_schema(Login)["properties"]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('token_file = "none"', "door.login.token_file: cannot be read: no such file or directory"),
        ('token_file = "."', "door.login.token_file: cannot be read: is a directory"),
        ("token_file = 5", "door.login.token_file: must be a string, not an integer"),
        ('token = "a"\ntoken_file = "b"', "door.login.token_file: token is set as well (keep one of the two)"),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_an_error(tmp_path: Path, lines: str, problem: str) -> None:
    assert read(f"[door.login]\n{lines}", tmp_path)[1] == [problem]


def test_variables_named_like_secrets_and_passwords_in_urls_are_masked() -> None:
    env = {"MODE": "fast", "GAME_TOKEN": "a", "db_password": "b", "DATABASE": "postgres://ann:pw@host/db", "PAGE": "http://a/b@c"}

    assert site_record(Site(apps={"chat": App(name="chat", command=["cat"], env=env)}))["apps"]["chat"]["env"] == {
        "MODE": "fast",
        "GAME_TOKEN": "***",
        "db_password": "***",
        "DATABASE": "postgres://ann:***@host/db",
        "PAGE": "http://a/b@c",
    }
