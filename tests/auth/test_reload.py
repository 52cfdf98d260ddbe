"""Edits of `auth` and of the files that it reads."""

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path

import jwt
import pytest

from scalesocket.config.load import load_site
from scalesocket.config.render import render_site
from tests.auth.tokens import SECRET, bearer, token
from tests.conftest import capture_all_logs
from tests.playing import until
from tests.reload.editing import WITHIN, open_edited

SITE = """
[server]
bind = "127.0.0.1:0"
control = "off"
[apps.chat]
command = ["cat"]
auth = { tokens_file = "tokens" }
"""

MALFORMED = "line 1: is not NAME:SHA256[:ROOMS[:ROLES]]"


def line(name: str, its_token: str) -> str:
    return f"{name}:{hashlib.sha256(its_token.encode()).hexdigest()}\n"


async def test_a_changed_file_applies_to_newcomers_and_a_broken_one_keeps_the_last_good(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(line("ann", "t-ann"))
    with capture_all_logs() as events:
        async with open_edited(tmp_path / "site.toml", SITE) as edited:
            ann = await edited.playground.join("/chat/lobby", additional_headers=bearer("t-ann"))

            tokens.write_text(line("bob", "t-bob"))
            await edited.wait_applied(2)
            await edited.playground.join("/chat/lobby", additional_headers=bearer("t-bob"))
            assert await edited.playground.refused("/chat/lobby", additional_headers=bearer("t-ann")) == 401
            await ann.say("still here")
            await ann.hear("still here")

            tokens.write_text("rubbish")
            await edited.wait_applied(3)
            await edited.playground.join("/chat/lobby", additional_headers=bearer("t-bob"))
            state, warning = (
                edited.gateway.reload_state,
                f"apps.chat.auth.tokens_file: the last valid contents of the file stay in use: {tokens}: {MALFORMED}",
            )
            assert state.warnings == (warning,)
            assert (
                state.public_error
                == f"apps.chat.auth.tokens_file: the last valid contents of the file stay in use: … {MALFORMED}"
            )

            assert (await edited.reloader.reload("test")).warnings == (warning,)
            edited.write("rubbish")
            await edited.wait_refused()
            assert state.warnings == (warning,)
            edited.write(SITE)
            await until(lambda: edited.last_error is None, within=WITHIN)
            assert state.public_error is not None
            tokens.write_text(line("ann", "t-ann"))
            assert (await edited.reloader.reload("test", dry_run=True)).warnings == ()
            await edited.wait_applied(4)
            assert (state.warnings, state.public_error) == ((), None)

    changes = [event["changes"] for event in events if event["event"] == "reloaded"]
    errors = [event["event"] for event in events if event["log_level"] == "error" and "tokens_file" in event["event"]]
    assert changes == ["apps.chat.auth files changed"] * 3
    assert errors == [f"apps.chat.auth.tokens_file: {tokens}: {MALFORMED}"]


async def test_an_edit_that_names_a_broken_file_is_not_applied(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(line("ann", "t-ann"))
    (tmp_path / "broken").write_text("rubbish")
    async with open_edited(tmp_path / "site.toml", SITE) as edited:
        edited.write(SITE.replace('"tokens"', '"broken"'))

        assert "apps.chat.auth.tokens_file" in await edited.wait_refused()
        await edited.playground.join("/chat/lobby", additional_headers=bearer("t-ann"))


async def test_a_secret_file_is_watched(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    site = SITE.replace('tokens_file = "tokens"', 'jwt = { secret_file = "secret" }')
    async with open_edited(tmp_path / "site.toml", site) as edited:
        await edited.playground.join("/chat/lobby", additional_headers=bearer(token()))

        (tmp_path / "secret").write_text("n" * 32)
        await edited.wait_applied()

        assert await edited.playground.refused("/chat/lobby", additional_headers=bearer(token())) == 401
        await edited.playground.join("/chat/lobby", additional_headers=bearer(token(secret="n" * 32)))


async def test_an_emptied_secret_file_lets_nobody_in_by_an_empty_key(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    site = SITE.replace('tokens_file = "tokens"', 'jwt = { secret_file = "secret" }')
    async with open_edited(tmp_path / "site.toml", site) as edited:
        (tmp_path / "secret").write_text("")
        assert "has fewer than 16 characters" in await edited.wait_refused()

        made = (
            jwt.PyJWS().encode(json.dumps({"sub": "eve", "exp": time.time() + 60}).encode(), SECRET, "HS256").rpartition(".")[0]
        )
        signature = base64.urlsafe_b64encode(hmac.digest(b"", made.encode(), "sha256")).rstrip(b"=").decode()
        assert await edited.playground.refused("/chat/lobby", additional_headers=bearer(f"{made}.{signature}")) == 401
        await edited.playground.join("/chat/lobby", additional_headers=bearer(token()))


async def test_auth_can_be_added_and_removed_while_clients_stay(tmp_path: Path) -> None:
    without = SITE.replace('auth = { tokens_file = "tokens" }', "")
    (tmp_path / "tokens").write_text(line("ann", "t-ann"))
    async with open_edited(tmp_path / "site.toml", without) as edited:
        guest = await edited.playground.join("/chat/lobby")

        edited.write(SITE)
        await edited.wait_applied(2)
        assert await edited.playground.refused("/chat/lobby") == 401
        await guest.say("hello")
        await guest.hear("hello")

        edited.write(without)
        await edited.wait_applied(3)
        await edited.playground.join("/chat/lobby")


def test_no_secret_is_shown(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SITE.replace('tokens_file = "tokens"', f'jwt = {{ secret = "{SECRET}" }}'))

    site = load_site(tmp_path / "site.toml")

    assert SECRET not in repr(site)
    assert SECRET not in render_site(site)
    assert 'auth = { from = ["ticket", "header", "subprotocol"], jwt = { secret = "***"' in render_site(site)


WRONG = {
    "{}": "lets nobody in",
    "{ anonymous = false }": "lets nobody in",
    "{ jwt = {} }": "verifies nothing (set secret, secret_file, keys_file or keys_url)",
    f'{{ jwt = {{ secret = "{SECRET}", keys_file = "keys" }} }}': "has two sources of keys",
    f'{{ jwt = {{ secret = "{SECRET}", algorithms = ["RS256"] }} }}': "HMAC and public keys are never mixed",
    f'{{ jwt = {{ secret = "{SECRET}", algorithms = ["none"] }} }}': "unknown value 'none'",
    '{ jwt = { secret = "" } }': "has fewer than 16 characters (write a random one: openssl rand -hex 32)",
    '{ jwt = { secret = "                    " } }': "has fewer than 16 characters",
    '{ jwt = { secret = "-----BEGIN PUBLIC KEY-----" } }': "is a key or a key set, not a shared secret",
    """{ jwt = { secret = '{"keys": [{"kty": "RSA"}]}' } }""": "is a key or a key set, not a shared secret",
    '{ anonymous = true, from = ["query"] }': "unknown value 'query'",
    '{ header = "Remote_User" }': "write 'Remote-User'",
    "{ anonymous = true, failures = { limit = 0 } }": "auth.failures.limit",
}


@pytest.mark.parametrize("auth", WRONG)
def test_a_wrong_table_is_explained_without_its_secret(tmp_path: Path, auth: str) -> None:
    (tmp_path / "site.toml").write_text(SITE.replace('{ tokens_file = "tokens" }', auth))

    with pytest.raises(Exception, match="auth") as error:
        load_site(tmp_path / "site.toml")

    assert WRONG[auth] in str(error.value)
    assert SECRET not in str(error.value)
