"""Secrets under a wrong key, or in the place of a table: an error must not repeat them."""

from pathlib import Path

import pytest

from scalesocket.config.parse import parse_site
from scalesocket.config.problems import ConfigError

SECRET = "CANARY"
APP = '[apps.a]\ncommand = ["cat"]\n'


@pytest.mark.parametrize(
    "text",
    [
        APP + f'auth = {{ jwt = {{ secrt = "{SECRET}" }} }}\n',
        APP + f'auth = {{ secret = "{SECRET}" }}\n',
        APP + f'[apps.a.auth]\njwt = "{SECRET}"\n',
        APP + f'auth = "{SECRET}"\n',
        APP + f'auth = [{{ secret = "{SECRET}" }}]\n',
        f'[server]\nadmin = {{ bind = "127.0.0.1:1", tokn = "{SECRET}" }}\n' + APP,
        f'[server]\nadmin = "{SECRET}"\n' + APP,
        f'[server]\ntoken = "{SECRET}"\n' + APP,
        APP + f'jwt_secret = "{SECRET}"\n',
        APP + f'[cluster]\nsercet = "{SECRET}"\n',
        f'cluster = "{SECRET}"\n' + APP,
    ],
)
def test_an_error_does_not_repeat_a_misplaced_secret(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_site(text, Path("site.toml"), {})

    assert "****" in error.value.render()
    assert SECRET not in error.value.render()


def test_an_error_shows_the_line_of_another_wrong_key() -> None:
    with pytest.raises(ConfigError) as error:
        parse_site(APP + 'mount_point = "/x"\n', Path("site.toml"), {})

    assert 'mount_point = "/x"' in error.value.render()
