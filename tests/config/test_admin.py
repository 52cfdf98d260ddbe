"""`[server] admin`: never open without a token, which nothing shows."""

from pathlib import Path

import pytest

from scalesocket.config.load import find_problems, load_site
from scalesocket.config.model import Admin, Server
from scalesocket.config.plan import find_changes
from scalesocket.config.problems import Severity
from scalesocket.config.render import render_site

TOKEN = "correct-horse-battery-staple"
APP = '[apps.chat]\ncommand = "cat"\n'


def write(folder: Path, server: str) -> Path:
    file = folder / "site.toml"
    file.write_text(f"[server]\n{server}\n\n{APP}")
    file.chmod(0o600)
    return file


def problems(folder: Path, server: str, severity: Severity = Severity.ERROR) -> list[str]:
    found = find_problems(write(folder, server), {})
    return [f"{problem.key}: {problem.message}" for problem in found if problem.severity is severity]


@pytest.mark.parametrize("bind", ["127.0.0.1:9001", "0.0.0.0:9001", "[::1]:0", "localhost:9001", "fd://3"])
def test_an_address_that_others_can_reach_needs_a_token(tmp_path: Path, bind: str) -> None:
    (problem,) = problems(tmp_path, f'admin = {{ bind = "{bind}" }}')

    assert problem == f'server.admin: {bind} is open without a token (set token or token_file, or bind to "unix:PATH")'


def test_a_unix_socket_needs_no_token(tmp_path: Path) -> None:
    admin = load_site(write(tmp_path, 'admin = { bind = "unix:admin.sock" }'), {}).server.admin

    assert admin == Admin(bind=f"unix:{tmp_path}/admin.sock")


def test_the_token_may_be_in_a_file_and_shows_nowhere(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")

    site = load_site(write(tmp_path, 'admin = { bind = "127.0.0.1:0", token_file = "token" }'), {})

    assert site.server.admin is not None
    assert site.server.admin.token == TOKEN
    other = site.server.model_copy(update={"admin": Admin(bind="127.0.0.1:0", token="another-" + TOKEN)})
    shown = [repr(site), str(site.server), render_site(site), str(find_changes(site.server, other)[0])]
    assert not [text for text in shown if TOKEN in text]


@pytest.mark.parametrize("token", ["", f"{TOKEN} {TOKEN}", f"{TOKEN}é"])
def test_a_token_that_no_request_can_carry_is_refused_without_being_shown(tmp_path: Path, token: str) -> None:
    found = problems(tmp_path, f'admin = {{ bind = "127.0.0.1:0", token = "{token}" }}')

    assert [problem.partition(" ")[0] for problem in found] == ["server.admin.token:"]
    assert TOKEN not in found[0]


def test_a_short_token_and_an_address_without_encryption_cause_warnings(tmp_path: Path) -> None:
    found = problems(tmp_path, 'admin = { bind = "0.0.0.0:9001", token = "short" }', Severity.WARNING)

    assert [problem.partition(":")[0] for problem in found] == ["server.admin.bind", "server.admin.token"]
    assert "short" not in found[1].partition("fewer")[0]
    assert problems(tmp_path, f'admin = {{ bind = "127.0.0.1:9001", token = "{TOKEN}" }}', Severity.WARNING) == []


def test_the_address_is_not_one_of_the_public_ones(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, f'bind = "127.0.0.1:9001"\nadmin = {{ bind = "127.0.0.1:9001", token = "{TOKEN}" }}')

    assert problem == "server.admin: 127.0.0.1:9001 is an address of server.bind as well (choose another)"


@pytest.mark.parametrize("key", ["metrics", "api"])
def test_what_is_for_the_admin_surface_alone_needs_one(tmp_path: Path, key: str) -> None:
    found = problems(tmp_path, f'{key} = "admin"', Severity.WARNING)

    assert found == [f"server.{key}: is served nowhere without admin (set admin, or write false)"]


def test_metrics_and_api_take_true_false_and_admin() -> None:
    assert [Server(metrics=value).metrics for value in (True, False, "admin")] == [True, False, "admin"]
    with pytest.raises(ValueError, match=r'one of: true, false, "admin"'):
        Server(metrics="public")
