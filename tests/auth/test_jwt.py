"""JSON Web Tokens: which are accepted, and what they say."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from scalesocket.auth.identity import Role
from scalesocket.auth.sources import AuthFileError
from scalesocket.config.model import Jwt
from tests.auth.deciding import Door
from tests.auth.tokens import SECRET, bearer, token

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def signed(key: Any, algorithm: str, *, kid: str | None = None, **claims: Any) -> dict[str, str]:
    claims = {"sub": "ann", "exp": time.time() + 60, **claims}
    return bearer(jwt.encode(claims, key, algorithm, headers={"kid": kid} if kid else None))


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def secret_door(**settings: Any) -> Door:
    return Door(jwt={"secret": SECRET, **settings})


def test_a_token_says_who_its_bearer_is() -> None:
    expires_at = time.time() + 60
    claims = {"rooms": ["one", "red-*"], "roles": ["read"], "info": {"level": 3}, "exp": expires_at}

    identity = secret_door().admits(bearer(token(**claims)))

    assert (identity.user, identity.method, identity.rooms) == ("ann", "jwt", ("one", "red-*"))
    assert (identity.roles, identity.info, identity.expires_at) == ({Role.READ}, '{"level":3}', expires_at)


WRONG: dict[str, Callable[[], str]] = {
    "another secret": lambda: token(secret="x" * 32),
    "not yet": lambda: token(nbf=time.time() + 60),
    "from the future": lambda: token(iat=time.time() + 60),
    "another app's": lambda: token(aud="other"),
    "never expires": lambda: token(exp=None),
    "no algorithm": lambda: f"{part({'alg': 'none'})}.{part({'sub': 'ann', 'exp': time.time() + 60})}.",
    "none in capitals": lambda: f"{part({'alg': 'NONE'})}.{part({'sub': 'ann', 'exp': time.time() + 60})}.",
    "tampered claims": lambda: ".".join([(parts := token().split("."))[0], part({"sub": "root", "exp": 9e9}), parts[2]]),
    "tampered signature": lambda: token()[:-4] + "AAAA",
    "no signature": lambda: token().rpartition(".")[0] + ".",
    "an unknown critical extension": lambda: jwt.encode(
        {"sub": "a", "exp": 9e9}, SECRET, "HS256", headers={"crit": ["x"], "x": 1}
    ),
    "exp is text": lambda: token(exp="9999999999"),
    "exp is no number": lambda: token(exp=True),
    "a user with a line end": lambda: token("ann\nroot"),
    "an endless user": lambda: token("a" * 300),
    "rooms are numbers": lambda: token(rooms=[5]),
    "roles are an object": lambda: token(roles={"write": True}),
    "no token": lambda: "",
    "rubbish": lambda: "a.b.c",
    "a huge number": lambda: token(exp=10**400),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_a_wrong_token_is_refused(make: Callable[[], str]) -> None:
    assert secret_door().denies(bearer(make())) == "bad_credential"


def test_an_expired_token_is_told_apart_and_does_not_count_as_a_guess() -> None:
    door = Door(jwt={"secret": SECRET}, failures={"limit": 1})

    assert [door.denies(bearer(token(ttl=-11))) for _ in range(3)] == ["expired"] * 3


def test_leeway_tolerates_clocks_that_differ() -> None:
    identity = secret_door().admits(bearer(token(ttl=-5)))

    assert identity.expires_at is not None
    assert identity.expires_at > time.time()  # it is not closed as soon as it has joined
    assert secret_door(leeway="0s").denies(bearer(token(ttl=-1))) == "expired"


def test_audience_and_issuer_must_be_those_of_the_site_file() -> None:
    door = secret_door(audience=["game", "play"], issuer="https://id.example")

    door.admits(bearer(token(aud=["x", "play"], iss="https://id.example")))
    assert door.denies(bearer(token(aud="play", iss="https://evil.example"))) == "bad_credential"
    assert door.denies(bearer(token(aud="other", iss="https://id.example"))) == "bad_credential"
    assert door.denies(bearer(token(iss="https://id.example"))) == "bad_credential"
    assert door.denies(bearer(token(aud=[["play"]], iss="https://id.example"))) == "bad_credential"


def test_without_audience_a_token_may_name_this_app_or_none() -> None:
    assert secret_door().admits(bearer(token(aud="game"))).user == "ann"
    assert secret_door().admits(bearer(token())).user == "ann"


def test_claims_have_the_names_of_the_site_file() -> None:
    door = secret_door(user="uid", rooms="may_join", roles="scope", info="profile", require_exp=False)

    identity = door.admits(bearer(token(None, uid=7, may_join="one", scope="write create", profile="x", exp=None)))

    assert (identity.user, identity.rooms, identity.info, identity.expires_at) == ("7", ("one",), '"x"', None)
    assert identity.roles == {Role.WRITE, Role.CREATE}


def test_one_claim_may_have_two_meanings() -> None:
    door = secret_door(rooms="groups", roles="groups", user="groups", info="groups")

    identity = door.admits(bearer(token(groups="one")))

    assert (identity.user, identity.rooms, identity.info) == ("one", ("one",), '"one"')
    assert not identity.may_write
    assert door.denies(bearer(token(groups=["one"]))) == "bad_credential"  # no name of a user
    assert door.denies(bearer(token(groups=1))) == "bad_credential"  # no names of rooms


def test_a_claim_of_the_standard_may_name_the_user_or_the_room() -> None:
    expires_at = int(time.time()) + 60

    assert secret_door(user="exp").admits(bearer(token(exp=expires_at))).user == str(expires_at)
    assert secret_door(user="iss").admits(bearer(token(iss="bob"))).user == "bob"
    assert secret_door(rooms="aud", audience="one").admits(bearer(token(aud=["one"]))).rooms == ("one",)
    assert secret_door(rooms="aud", audience="one").denies(bearer(token(aud=["one", 2]))) == "bad_credential"


@pytest.mark.parametrize(
    ("claim", "value"), [("exp", True), ("exp", "1999999999"), ("nbf", -1), ("iat", 1e13), ("sub", True), ("sub", 1.5)]
)
def test_a_time_or_a_user_of_another_type_is_refused(claim: str, value: object) -> None:
    assert secret_door().denies(bearer(token(**{claim: value}))) == "bad_credential"


@pytest.mark.parametrize("key", ["user", "rooms", "roles", "info"])
@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", ""])
def test_what_no_claim_is_called_is_a_mistake_in_the_site_file(key: str, name: str) -> None:
    with pytest.raises(ValidationError, match="is not the name of a claim"):
        Jwt.model_validate({"secret": SECRET, key: name})


def test_a_token_for_another_room_is_refused() -> None:
    assert secret_door().denies(bearer(token(rooms=["two"]))) == "wrong_room"
    assert secret_door().denies(bearer(token(rooms=[]))) == "wrong_room"


@pytest.mark.parametrize("claim", ["sub", "rooms", "roles", "aud", "exp", "nbf", "iat"])
def test_a_claim_that_is_null_is_not_taken_for_a_missing_one(claim: str) -> None:
    door = secret_door(require_exp=False)
    null = jwt.encode({"exp": time.time() + 60, claim: None}, SECRET, "HS256")

    assert door.denies(bearer(null)) == "bad_credential"


@pytest.mark.parametrize("claim", ["rooms", "roles"])
@pytest.mark.parametrize("value", [1, True, {"lobby": True}, ["lobby", None], [["lobby"]]])
def test_rooms_and_roles_of_another_type_are_refused(claim: str, value: object) -> None:
    assert secret_door().denies(bearer(token(**{claim: value}))) == "bad_credential"


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(RSA_KEY, "RS256"), (RSA_KEY, "PS512"), (EC_KEY, "ES256"), (ED_KEY, "EdDSA")],
    ids=lambda value: str(value)[:6],
)
def test_public_keys_verify_the_algorithms_of_their_type(tmp_path: Path, key: Any, algorithm: str) -> None:
    file = tmp_path / "keys.pem"
    file.write_text("".join(map(pem, (RSA_KEY, EC_KEY, ED_KEY))))
    door = Door(jwt={"keys_file": file})

    assert door.admits(signed(key, algorithm)).method == "jwt"


def test_a_public_key_is_never_used_as_a_shared_secret(tmp_path: Path) -> None:
    file = tmp_path / "keys.pem"
    file.write_text(pem(RSA_KEY))
    claims = f"{part({'alg': 'HS256'})}.{part({'sub': 'root', 'exp': time.time() + 60})}"
    signature = base64.urlsafe_b64encode(hmac.digest(file.read_bytes(), claims.encode(), hashlib.sha256)).rstrip(b"=").decode()

    assert Door(jwt={"keys_file": file}).denies(bearer(f"{claims}.{signature}")) == "bad_credential"


def test_a_key_set_finds_keys_by_kid_and_honours_their_algorithm(tmp_path: Path) -> None:
    first, second = rsa.generate_private_key(public_exponent=65537, key_size=2048), RSA_KEY
    keys = [
        json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) | {"kid": kid, "alg": "RS256", "use": "sig"}
        for kid, key in (("old", first), ("new", second))
    ]
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [*keys, {"kty": "unknown"}]}))
    door = Door(jwt={"keys_file": file})

    door.admits(signed(first, "RS256", kid="old"))
    door.admits(signed(second, "RS256", kid="new"))
    assert door.denies(signed(second, "RS256", kid="old")) == "bad_credential"
    assert door.denies(signed(second, "RS256", kid="newer")) == "bad_credential"
    assert door.denies(signed(second, "RS512", kid="new")) == "bad_credential"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "is neither PEM nor a JSON Web Key Set"),
        ('{"keys": 5}', 'is not a JSON Web Key Set (it would be {"keys": […]})'),
        ('{"keys": []}', "has no key that verifies signatures (write PEM public keys, or a JSON Web Key Set)"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "has a damaged PEM key (copy the file again)"),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
            "has a private key (write the public one: openssl pkey -in OLD -pubout -out NEW)",
        ),
        (
            json.dumps(
                {"keys": [{"kty": "oct", "k": "c2VjcmV0"}, json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY.public_key()))]}
            ),
            "has shared secrets and public keys (keep one kind: they are never mixed)",
        ),
    ],
)
def test_a_wrong_key_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)

    with pytest.raises(AuthFileError) as error:
        Door(jwt={"keys_file": file})

    assert str(error.value) == f"apps.game.auth.jwt.keys_file: {file}: {message}"


def test_the_algorithms_must_fit_the_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.pem"
    file.write_text(pem(EC_KEY))

    with pytest.raises(AuthFileError, match="has no key for these algorithms"):
        Door(jwt={"keys_file": file, "algorithms": ["RS256"]})
