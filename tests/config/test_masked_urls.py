"""Secrets in URLs, and what a comparison of two masked values says."""

from pathlib import Path

import pytest

from scalesocket.config.model import App, Server, Site
from scalesocket.config.parse import parse_site
from scalesocket.config.plan import make_plan
from scalesocket.config.problems import ConfigError
from scalesocket.config.render import render_site, site_record
from scalesocket.config.secrets import mask_url, star_url

SECRET = "CANARY"
APP = '[apps.a]\ncommand = ["cat"]\n'


def site_with(*, admin: str = "t" * 32, env: dict[str, str] | None = None, **auth: object) -> Site:
    server = Server(admin={"bind": "127.0.0.1:1", "token": admin})
    return Site(server=server, apps={"a": App(name="a", command=["cat"], env=env or {}, auth={"anonymous": True, **auth})})


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        (f"https://h/?s={SECRET}", "https://h/?***"),
        (f"https://u:{SECRET}@h:8/x/y", "https://***@h:8/x/y"),
        (f"https://u:p@{SECRET}@h/x", "https://***@h/x"),
        (f"https://{SECRET}@h", "https://***@h"),
        (f"h/?{SECRET}", "h/?***"),
        (f"https://h/#{SECRET}", "https://h/#***"),
        (f"redis://u:{SECRET}#pw@h/0", "redis://***@h/0"),
        (f"redis://u:{SECRET}/pw@h/0", "redis://***@h/0"),
        (f"redis://u:p@ss?{SECRET}@h", "redis://***@h"),
        (f"redis://u:12#{SECRET}@h", "redis://***@h"),
        (f"redis://:{SECRET}/", "redis://***@"),
        (f"redis//u:{SECRET}@h", "***@h"),
        (f"redis+sentinel://u:{SECRET}/x@a:1,b:2/m", "redis+sentinel://***@a:1,b:2/m"),
        ("redis+sentinel://a:1,b:2/m", "redis+sentinel://a:1,b:2/m"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("https://h:80", "https://h:80"),
        ("https://h/x?", "https://h/x?"),
        ("https://h/x", "https://h/x"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, masked: str) -> None:
    assert mask_url(url) == masked
    starred = star_url(f'"{url}"')
    assert SECRET not in starred
    assert (starred == f'"{url}"') == (url == masked)
    assert len(starred) == len(url) + 2


def test_the_urls_of_a_hook_and_of_keys_are_shown_without_their_queries() -> None:
    for auth in ({"hook": {"url": f"https://h/x?s={SECRET}"}}, {"jwt": {"keys_url": f"https://h/x?s={SECRET}"}}):
        site = site_with(**auth)

        assert '"https://h/x?***"' in render_site(site)
        for text in (render_site(site), repr(site_record(site)), repr(site)):
            assert SECRET not in text


def test_queries_in_urls_of_variables_are_masked() -> None:
    site = site_with(env={"PAGE": f"http://h/a?b={SECRET}", "REPOSITORY": f"https://{SECRET}@h/a"})

    assert site_record(site)["apps"]["a"]["env"] == {"PAGE": "http://h/a?***", "REPOSITORY": "https://***@h/a"}


@pytest.mark.parametrize(
    "lines",
    [
        f'auth = {{ hook = {{ url = "https://h/?s={SECRET}", tiemout = 1 }} }}',
        f'auth = {{ hook = {{ url = "https://u:{SECRET}@h/" }} }}',
        f'auth = {{ hook = {{ url = "h/?s={SECRET}" }} }}',
        f'auth = {{ hook = {{ url = "https://h/#{SECRET}" }} }}',
        f'auth = {{ hook = {{ url = "https://h/\\u003fs={SECRET} x" }} }}',
        f'auth = {{ hook = "https://h/?s={SECRET}" }}',
        f'auth = {{ jwt = {{ keys_url = "http://h/?s={SECRET}" }} }}',
        f'auth = {{ hook = {{ url = "https://h/?s={SECRET}", = }} }}',
        f'env = {{ PAGE = "http://h/?s={SECRET}", N = 1.5 }}',
        f'env = {{ API_TOKEN = "{SECRET}", N = 1.5 }}',
        f'env = {{ API_TOKEN = "{SECRET}", = }}',
    ],
)
def test_an_error_does_not_repeat_a_secret_in_a_url_or_a_variable(lines: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_site(f"{APP}{lines}\n", Path("site.toml"), {})

    assert "****" in caught.value.render()
    assert SECRET not in caught.value.render()


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        (site_with(), site_with(admin="u" * 32), ('token = "***"', 'token = "*** (another)"')),
        (
            site_with(jwt={"secret": "s" * 32}),
            site_with(jwt={"secret": "t" * 48}, grace=1.0),
            ('secret = "***"', 'secret = "*** (another)"'),
        ),
        (
            site_with(hook={"url": "https://h/?s=1"}),
            site_with(hook={"url": "https://h/?s=22"}),
            ('url = "https://h/?***"', 'url = "https://h/?*** (another)"'),
        ),
        (site_with(env={"API_KEY": "a"}), site_with(env={"API_KEY": "bb"}), ('API_KEY = "***"', 'API_KEY = "*** (another)"')),
    ],
    ids=["token", "secret", "url", "variable"],
)
def test_a_difference_says_that_a_secret_is_another_one(old: Site, new: Site, texts: tuple[str, str]) -> None:
    plan = make_plan(old, new)
    (change,) = [*plan.server, *(change for app in plan.changed for change in app.changes)]

    assert texts[0] in (change.old_text or "")
    assert texts[1] in (change.new_text or "")
    assert "another" not in (change.old_text or "")


def test_a_secret_that_stays_is_not_called_another() -> None:
    secret = {"secret": "s" * 32}

    (app,) = make_plan(site_with(jwt=secret), site_with(jwt=secret, grace=1.0)).changed

    assert "another" not in str(app.changes[0])
