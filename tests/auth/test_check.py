"""What `scalesocket check` and `serve` say about `auth`."""

from pathlib import Path

import bcrypt
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec

from scalesocket.cli.main import commands
from tests.auth.test_jwt import pem

SITE = """
[server]
bind = "127.0.0.1:0"
control = "off"
[apps.chat]
command = ["cat"]
auth = { %s }
"""
HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()


def run(command: str, folder: Path, auth: str) -> tuple[int, str]:
    (folder / "site.toml").write_text(SITE % auth)
    (folder / "site.toml").chmod(0o600)
    result = CliRunner().invoke(commands, [command, str(folder / "site.toml")])
    return result.exit_code, result.output.replace(f"{folder}/", "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    key = pem(ec.generate_private_key(ec.SECP256R1()))
    for name, text in {"users": f"ann:{HASH}\n", "tokens": "rubbish\n", "keys.pem": key}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return tmp_path


@pytest.mark.parametrize(
    ("auth", "line"),
    [
        ('tokens_file = "none"', "site.toml:7:24: apps.chat.auth.tokens_file: none cannot be read: no such file or directory"),
        (
            'tokens_file = "tokens"',
            "site.toml:7:24: apps.chat.auth.tokens_file: tokens: line 1: is not NAME:SHA256",
        ),
        (
            'jwt = { keys_file = "keys.pem", algorithms = ["RS256"] }',
            "site.toml:7:30: apps.chat.auth.jwt.keys_file: keys.pem: has no key for these algorithms (its keys are for ES256)",
        ),
        (
            'jwt = { keys_file = "keys.pem", algorithms = ["ES256", "HS256"] }',
            "apps.chat.auth.jwt: has HMAC algorithms and algorithms for public keys (keep one kind: they are never mixed)",
        ),
        (
            'jwt = { keys_url = "https://id.example/keys", algorithms = ["HS256"] }',
            "apps.chat.auth.jwt: has keys_url, which gives public keys, and an HMAC algorithm (they are never mixed)",
        ),
    ],
)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_file_that_cannot_be_used_is_an_error_with_its_line(folder: Path, command: str, auth: str, line: str) -> None:
    code, output = run(command, folder, auth)

    assert code == 78
    assert line in output


@pytest.mark.parametrize(
    ("auth", "warning"),
    [
        ('users_file = "users"', "auth.users_file: passwords are sent unencrypted"),
        ('header = "Remote-User"', "auth.header: is trusted from nobody"),
        ('anonymous = true, from = ["query:t"]', "auth.from: 'query:t' puts tokens into URLs"),
        ('jwt = { secret = "short-short-short" }', "auth.jwt.secret: has fewer than 32 bytes"),
        (
            'jwt = { keys_file = "keys.pem", algorithms = ["ES256", "RS256", "EdDSA"] }',
            "keys_file: has no key for RS256, EdDSA (add",
        ),
        ('jwt = { secret = "short32-short32-short32-short32-", algorithms = ["HS256", "HS512"] }', "has fewer than 64 bytes"),
    ],
)
def test_what_exposes_credentials_is_a_warning(folder: Path, auth: str, warning: str) -> None:
    code, output = run("check", folder, auth)

    assert code == 0
    assert warning in output
    assert "short" not in output


@pytest.mark.parametrize(("trusted", "count"), [('["127.0.0.1/32"]', 2), ('"unix:"', 0)])
def test_a_proxy_on_a_unix_socket_has_to_be_named(folder: Path, trusted: str, count: int) -> None:
    site = SITE.replace('"127.0.0.1:0"', f'"unix:site.sock"\ntrusted_proxies = {trusted}')
    (folder / "site.toml").write_text(site % 'header = "Remote-User"')

    result = CliRunner().invoke(commands, ["check", str(folder / "site.toml")])

    assert result.exit_code == 0
    assert result.output.count('write "unix:"') == count


@pytest.mark.parametrize(
    ("auth", "file"),
    [
        ('users_file = "users"', "users"),
        ('tokens_file = "hashes"', "hashes"),
        ('jwt = { secret_file = "hashes" }', "hashes"),
        ('jwt = { keys_file = "keys.json" }', "keys.json"),
        ('jwt = { secret = "0123456789abcdef0123456789abcdef" }', "site.toml"),
    ],
)
def test_a_secret_that_others_can_read_is_a_warning(folder: Path, auth: str, file: str) -> None:
    (folder / "hashes").write_text(f"ann:{'0' * 64}\n")
    (folder / "keys.json").write_text('{"keys": [{"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}]}')

    for secret in ("hashes", "keys.json"):
        (folder / secret).chmod(0o600)
    _, closed = run("check", folder, auth)
    (folder / file).chmod(0o644)
    result = CliRunner().invoke(commands, ["check", str(folder / "site.toml")])

    assert "can be read by others (chmod o-r" not in closed
    assert "can be read by others (chmod o-r" in result.output
    assert "0123456789abcdef" not in result.output


def test_a_secret_from_a_variable_is_not_in_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "0123456789abcdef0123456789abcdef")
    run("check", folder, 'jwt = { secret = "${SECRET}" }')
    (folder / "site.toml").chmod(0o644)

    assert CliRunner().invoke(commands, ["check", str(folder / "site.toml")]).output == "OK\n"


def test_hashes_of_different_costs_are_a_warning(folder: Path) -> None:
    with (folder / "users").open("a") as file:
        file.write(f"bob:{bcrypt.hashpw(b'secret', bcrypt.gensalt(5)).decode()}\n")

    code, output = run("check", folder, 'users_file = "users"')

    assert code == 0
    assert "auth.users_file: the hashes have different costs, and each attempt takes as long as the highest, 5" in output
    assert "renew the others: htpasswd -B -C 5 FILE USER" in output


def test_a_good_table_has_no_problem(folder: Path) -> None:
    assert run("check", folder, 'jwt = { keys_file = "keys.pem" }') == (0, "OK\n")
