"""`scalesocket token`: makes tokens that the app accepts, and explains others, without the network."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from scalesocket.auth.authenticators import Authenticators
from scalesocket.auth.identity import Identity, Role
from scalesocket.config.load import load_site
from tests.admission.requests import request_for
from tests.cli.serving import scalesocket

SECRET: Final = "canary-" + "s" * 32
OTHER: Final = "another-" + "s" * 32


def write_site(folder: Path, **auth: str) -> Path:
    """Write a site file with an app for each `auth` table, given as TOML."""
    file = folder / "site.toml"
    apps = (f'[apps.{name}]\ncommand = ["cat"]\nauth = {table}\n' for name, table in auth.items())
    file.write_text('[server]\nbind = "127.0.0.1:0"\n' + "".join(apps))
    return file


def hmac_site(folder: Path) -> Path:
    return write_site(folder, pong=f'{{ jwt = {{ secret = "{SECRET}" }} }}')


def verdict(file: Path, token: str, room: str = "lobby", app: str = "pong") -> object:
    """Return the decision of the app on a token."""
    authenticator = Authenticators(load_site(file))[app]
    return authenticator.check(request_for(authorization=f"Bearer {token}"), room, is_from_proxy=False).verdict


def forge(*, secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    given = {"sub": "ann", "exp": time.time() + 600, "aud": "pong", **claims}
    return jwt.encode(
        {name: value for name, value in given.items() if value is not None}, None if algorithm == "none" else secret, algorithm
    )


def explain(file: Path, token: str, *words: str) -> tuple[int, str]:
    done = scalesocket("token", "--explain", token, *words, str(file))
    return done.code, done.out


def test_the_token_is_printed_alone_and_lets_in(tmp_path: Path) -> None:
    file = hmac_site(tmp_path)

    made = scalesocket(
        "token", "--app", "pong", "--room", "lobby", "--user", "ann", "--ttl", "1h", "--role", "read", str(file), cwd=tmp_path
    )

    assert (made.code, made.err) == (0, "")
    assert made.out.count("\n") == 1
    identity = verdict(file, made.out.strip())
    assert isinstance(identity, Identity)
    assert (identity.user, identity.rooms, identity.roles) == ("ann", ("lobby",), {Role.READ})
    assert identity.expires_at == pytest.approx(time.time() + 3600, abs=60)


def test_without_options_a_guest_may_write_in_all_rooms_for_an_hour(tmp_path: Path) -> None:
    file = hmac_site(tmp_path)

    made = scalesocket("token", cwd=tmp_path)

    identity = verdict(file, made.out.strip())
    assert isinstance(identity, Identity)
    assert (identity.user, identity.rooms, identity.roles) == (None, None, {Role.WRITE})


def test_it_has_the_claims_that_the_app_reads(tmp_path: Path) -> None:
    keys = 'audience = ["games", "more"], issuer = "me", user = "name", rooms = "where", roles = "scope"'
    file = write_site(tmp_path, pong=f'{{ jwt = {{ secret = "{SECRET}", algorithms = "HS512", {keys} }} }}')

    made = scalesocket("token", "--user", "ann", "--room", "a*", "--room", "b", "--role", "create", str(file)).out.strip()

    assert jwt.get_unverified_header(made)["alg"] == "HS512"
    identity = verdict(file, made, room="abc")
    assert isinstance(identity, Identity)
    assert (identity.user, identity.rooms) == ("ann", ("a*", "b"))
    assert identity.may_create


@pytest.mark.parametrize(
    "private",
    [
        pytest.param(lambda: ed25519.Ed25519PrivateKey.generate(), id="EdDSA"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP256R1()), id="ES256"),
        pytest.param(lambda: rsa.generate_private_key(65537, 2048), id="RS256"),
    ],
)
def test_a_private_key_signs_for_an_app_with_the_public_one(tmp_path: Path, private: Any, request: pytest.FixtureRequest) -> None:
    key = private()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "public.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    file = write_site(tmp_path, pong='{ jwt = { keys_file = "public.pem" } }')

    without = scalesocket("token", str(file))
    made = scalesocket("token", "--key", str(tmp_path / "key.pem"), "--user", "ann", str(file))

    assert without.code == 1
    assert "name the private one: --key FILE" in without.err
    assert made.code == 0, made.err
    assert jwt.get_unverified_header(made.out.strip())["alg"] == request.node.callspec.id
    assert "pong: lets in ann" in explain(file, made.out.strip())[1]


def test_a_key_that_the_app_does_not_know_makes_no_token(tmp_path: Path) -> None:
    one, other = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(one.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "public.pem").write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    file = write_site(tmp_path, pong='{ jwt = { keys_file = "public.pem" } }')

    made = scalesocket("token", "--key", str(tmp_path / "key.pem"), str(file))

    assert (made.code, made.out) == (1, "")
    assert "apps.pong would refuse the token: its signature is not by a key of pong" in made.err


@pytest.mark.parametrize(
    ("claims", "lack"),
    [
        ({"exp": 1000.0}, "it has expired "),
        ({"exp": None}, "it never expires (exp is missing)"),
        ({"nbf": 9e9}, "it is not valid yet: it begins in "),
        ({"aud": "chat"}, "it is for the audience chat (pong wants pong)"),
        ({"secret": OTHER}, "its signature is not by a key of pong, or the token was changed"),
        ({"algorithm": "none"}, "it is not signed (alg is none)"),
        ({"exp": "soon"}, "exp is not a time in seconds"),
        ({"sub": ["ann"]}, "sub is not the name of a user"),
    ],
    ids=["expired", "exp", "nbf", "aud", "signature", "none", "time", "user"],
)
def test_a_refused_token_is_explained(tmp_path: Path, claims: dict[str, Any], lack: str) -> None:
    token = forge(**claims)

    code, out = explain(hmac_site(tmp_path), token)

    assert code == 1
    assert f"pong: refuses it\n  - {lack}" in out


def test_all_that_a_token_lacks_is_listed(tmp_path: Path) -> None:
    file = write_site(tmp_path, pong=f'{{ jwt = {{ secret = "{SECRET}", issuer = "me" }} }}')

    _, out = explain(file, forge(secret=OTHER, exp=1000, aud="chat", iss="you"))

    lacks = [line.removeprefix("  - ") for line in out.splitlines() if line.startswith("  - ")]
    starts = ("its signature is not", "it is for the audience chat", "its issuer is you (pong wants me)", "it has expired")
    assert len(lacks) == len(starts)
    assert all(lack.startswith(start) for lack, start in zip(lacks, starts, strict=True))


def test_each_app_is_asked(tmp_path: Path) -> None:
    file = write_site(
        tmp_path, pong=f'{{ jwt = {{ secret = "{SECRET}" }} }}', chat=f'{{ jwt = {{ secret = "{OTHER}", audience = "pong" }} }}'
    )

    code, out = explain(file, forge(rooms=["lobby"], roles=["read"]))

    assert code == 0
    assert "pong: lets in ann; rooms lobby; roles read; until " in out
    assert "chat: refuses it\n  - its signature is not by a key of chat" in out


def test_explain_reads_standard_input(tmp_path: Path) -> None:
    file = hmac_site(tmp_path)

    done = subprocess.run(
        [sys.executable, "-m", "scalesocket", "token", "--explain", "-", str(file)],
        input=f"Bearer {forge()}\n",
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "pong: lets in ann; all rooms; roles write; until " in done.stdout


@pytest.mark.parametrize("text", ["", "abc", "a.b.c", "..", "é.é.é", "e30.W10.x"])
def test_other_texts_are_no_tokens(tmp_path: Path, text: str) -> None:
    done = scalesocket("token", "--explain", text, str(hmac_site(tmp_path)))

    assert done.code == 1
    assert "is not a JSON Web Token" in done.err


def test_values_of_a_token_cannot_control_the_terminal(tmp_path: Path) -> None:
    _, out = explain(hmac_site(tmp_path), forge(sub="\x1b[31mann\nbob", **{"\x1b]0;x": "y"}))

    assert "\x1b" not in out
    assert "?[31mann?bob" in out


def test_no_output_has_the_key(tmp_path: Path) -> None:
    file = hmac_site(tmp_path)

    runs = [
        scalesocket("token", str(file)),
        scalesocket("token", "--explain", forge(secret=OTHER), str(file)),
        scalesocket("token", "--explain", forge(), str(file)),
        scalesocket("token", "--key", str(file), str(file)),
        scalesocket("token", "--app", "no", str(file)),
    ]

    assert not [run for run in runs if SECRET in run.out + run.err]


def test_an_app_without_tokens_is_named(tmp_path: Path) -> None:
    file = write_site(tmp_path, pong="{ anonymous = true }")

    done = scalesocket("token", "--app", "pong", str(file))

    assert done.code == 1
    assert "apps.pong: accepts no tokens (set auth.jwt)" in done.err


def test_one_of_several_apps_must_be_chosen(tmp_path: Path) -> None:
    table = f'{{ jwt = {{ secret = "{SECRET}" }} }}'

    done = scalesocket("token", str(write_site(tmp_path, pong=table, chat=table)))

    assert done.code == 2
    assert "several apps accept tokens (add --app pong or --app chat)" in done.err
