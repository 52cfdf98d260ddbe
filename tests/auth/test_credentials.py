"""Where credentials are found, and that they are removed."""

import base64
import hashlib
from pathlib import Path

import pytest

from scalesocket.auth.attempt import Attempt
from scalesocket.auth.credentials import CredentialFinder
from scalesocket.auth.tokens import LineError, parse_tokens
from scalesocket.config.model import Auth
from scalesocket.wire.cgi import environment
from tests.auth.deciding import Door, request_of
from tests.auth.tokens import SECRET, bearer, token

CANARY = "canary-7f3a"


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def door_for(*places: str) -> Door:
    return Door(**{"from": places, "jwt": {"secret": SECRET}})


def test_each_place_of_a_token_is_used_only_if_it_is_listed() -> None:
    secret = token()
    shown = {
        "header": {"headers": bearer(secret)},
        "subprotocol": {"headers": {"Sec-WebSocket-Protocol": f"bearer, {secret}"}},
        "cookie:session": {"headers": {"Cookie": f"a=1; session={secret}; b=2"}},
        "query:token": {"query": f"?a=1&token={secret}"},
    }
    for place in shown:
        for other, options in shown.items():
            if place == other:
                assert door_for(place).admits(**options).user == "ann"
            else:
                assert door_for(place).denies(**options) == "no_credential"


def test_of_two_tokens_the_first_place_decides() -> None:
    bad = bearer(token(secret="x" * 32))
    both = {"query": f"?token={token()}"}

    assert door_for("header", "query:token").denies(bad, **both) == "bad_credential"
    assert door_for("query:token", "header").admits(bad, **both).user == "ann"


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"Authorization": f"Bearer {CANARY}"}, ""),
        ({"Authorization": f"Digest {CANARY}"}, ""),
        (basic("ann", CANARY), ""),
        ({"Sec-WebSocket-Protocol": f"bearer, {CANARY}, mqtt"}, ""),
        ({"Sec-WebSocket-Protocol": f"mqtt,bearer,{CANARY}"}, ""),
        ({"Sec-WebSocket-Protocol": f"bearer, x, mqtt, Bearer, {CANARY}"}, ""),
        ({"Cookie": f"a=1; session={CANARY}"}, ""),
        ({"Cookie": f"session={CANARY}; session={CANARY}2"}, ""),
        ({}, f"?a=1&token={CANARY}"),
        ({}, f"?TOKEN={CANARY}&a=1"),
        ({}, f"?%74oken={CANARY}&a=1&token={CANARY}"),
        ({}, f"?ticket={CANARY}&a=1"),
        ({"Remote-User": CANARY}, ""),
        ({"remote_user": CANARY}, ""),
        ({"REMOTE_User": CANARY}, ""),
    ],
)
def test_no_credential_reaches_a_program(headers: dict[str, str], query: str) -> None:
    door = Door(
        **{
            "from": ["ticket", "header", "subprotocol", "cookie:session", "query:token"],
            "jwt": {"secret": SECRET},
            "header": "Remote-User",
            "anonymous": True,
        }
    )

    verdict = door.decide(headers, query=query)

    assert door.passed is not None
    variables = environment(door.passed, app="game", room="one", script_name="/game", path_info="/one", software="x")
    assert CANARY not in repr(variables)
    assert CANARY not in repr(tuple(door.passed))
    assert CANARY not in repr(verdict)
    assert "mqtt" in variables.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "mqtt")
    assert variables["QUERY_STRING"] in ("", "a=1")
    assert variables.get("HTTP_COOKIE") in (None, "a=1")


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"Sec-WebSocket-Protocol": f"bearer, {CANARY}"}, ""),
        ({"Sec-WebSocket-Protocol": f"mqtt, bearer, {CANARY}"}, ""),
        ({"Authorization": f"Bearer {CANARY}"}, ""),
        ({}, f"?a=1&ticket={CANARY}"),
        ({}, f"?Tick%65t={CANARY}"),
    ],
)
def test_a_credential_in_a_place_that_the_app_does_not_read_reaches_no_program(headers: dict[str, str], query: str) -> None:
    door = Door(**{"from": ["cookie:session"], "jwt": {"secret": SECRET}, "anonymous": True})

    assert door.admits(headers, query=query).method == "anonymous"

    assert door.passed is not None
    variables = environment(door.passed, app="game", room="one", script_name="/game", path_info="/one", software="x")
    assert CANARY not in repr(variables)
    assert CANARY not in repr(tuple(door.passed))
    assert variables.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "mqtt") == "mqtt"
    assert variables["QUERY_STRING"] in ("", "a=1")


@pytest.mark.parametrize("lists", [",", ", :read", "lobby: ,"])
def test_a_list_without_names_in_a_tokens_file_is_refused(lists: str) -> None:
    with pytest.raises(LineError, match="line 1: has a list without a name in it"):
        parse_tokens(f"ann:{'0' * 64}:{lists}\n")


def test_what_holds_credentials_does_not_show_them() -> None:
    request = request_of(f"/game/one?ticket={CANARY}", {"Authorization": f"Bearer {CANARY}", "Cookie": f"session={CANARY}"})
    finder = CredentialFinder(Auth.model_validate({"from": ["ticket", "header", "cookie:session"], "tokens_file": "/tokens"}))

    credentials, _ = finder.find(request, is_from_proxy=False)

    assert (credentials.ticket, credentials.tokens) == (CANARY, (CANARY, CANARY))
    for holder in (request, credentials, Attempt(credentials, "one", request)):
        assert CANARY not in repr(holder)


def test_cookies_of_several_fields_are_one_list() -> None:
    door = door_for("cookie:session")

    assert door.admits({"Cookie": "a=1", "cookie": f"session={token()}"}).user == "ann"
    assert door.passed is not None
    assert door.passed.headers["cookie"] == "a=1"


def test_a_credential_of_another_kind_is_none() -> None:
    door = Door(jwt={"secret": SECRET}, anonymous=True)

    assert door.admits(basic("ann", "x")).user is None
    assert door.admits({}).method == "anonymous"
    assert door.denies(bearer("rubbish")) == "bad_credential"  # a guest with a wrong token is told so


def test_a_token_file_says_who_has_which_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in ("t-ann", "t-bob", "t-eve")]
    file.write_text(f"# who: what\n\nann:{hashes[0]}\nbob:{hashes[1].upper()}:one,red-*:read\neve:{hashes[2]}::create\n")
    door = Door(tokens_file=file)

    ann, bob, eve = (door.admits(bearer(one)) for one in ("t-ann", "t-bob", "t-eve"))

    assert (ann.user, ann.method, ann.rooms, ann.role_names) == ("ann", "token", None, ("write",))
    assert (bob.user, bob.rooms, bob.role_names) == ("bob", ("one", "red-*"), ("read",))
    assert eve.role_names == ("write", "create")
    assert door.denies(bearer("t-bob"), room="two") == "wrong_room"
    assert door.denies(bearer(hashes[0])) == "bad_credential"


def test_a_header_is_believed_from_trusted_proxies_alone() -> None:
    door = Door(header="Remote-User")

    assert door.admits({"Remote-User": "ann"}, is_from_proxy=True).user == "ann"
    assert door.denies({"Remote-User": "ann"}) == "no_credential"
    assert door.denies({"Remote_User": "ann"}, is_from_proxy=True) == "no_credential"
    assert door.admits({"Remote-User": "ann", "Remote_User": "root"}, is_from_proxy=True).user == "ann"
    assert door.denies({"Remote-User": ""}, is_from_proxy=True) == "no_credential"


def test_an_identity_header_of_the_clients_own_that_survived_the_proxy_is_refused() -> None:
    door = Door(header="Remote-User")

    assert door.denies({"Remote-User": "root", "remote-user": "ann"}, is_from_proxy=True) == "bad_credential"
