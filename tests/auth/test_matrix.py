"""Every way to authenticate, in every place of its credential, with every fault: none lets in but the good one."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import bcrypt
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from scalesocket.auth.denial import Denial
from scalesocket.auth.identity import Identity
from scalesocket.auth.tickets import LIFETIME
from tests.auth.deciding import Door
from tests.auth.web import Answering, open_web, respond
from tests.conftest import Serve

SECRET: Final = "s" * 32
OTHER_SECRET: Final = "o" * 32
OPAQUE: Final = "opaque-token-of-ann"
PLACES: Final = ("header", "subprotocol", "cookie:session", "query:token")
Shown = tuple[dict[str, str], str]
"""Headers and query."""


def keep_silent(_: object) -> None:
    """Answer nothing."""


RSA: Final = rsa.generate_private_key(65537, 2048)
ED: Final = ed25519.Ed25519PrivateKey.generate()
OTHER_ED: Final = ed25519.Ed25519PrivateKey.generate()


def public_pem(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


def show(place: str, token: str) -> Shown:
    """Put a token into a place of the request."""
    kind, _, name = place.partition(":")
    match kind:
        case "header":
            return {"Authorization": f"Bearer {token}"}, ""
        case "subprotocol":
            return {"Sec-WebSocket-Protocol": f"bearer, {token}"}, ""
        case "cookie":
            return {"Cookie": f"theme=dark; {name}={token}"}, ""
    return {}, f"?seat=3&{name}={quote(token)}"


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def claims(**given: Any) -> dict[str, Any]:
    full = {"sub": "ann", "aud": "game", "iss": "me", "rooms": ["one", "team-*"], "exp": time.time() + 60, **given}
    return {name: value for name, value in full.items() if value is not None}


def signed(key: Any = SECRET, algorithm: str = "HS256", headers: Mapping[str, Any] | None = None, **given: Any) -> str:
    header = part({"alg": algorithm, "typ": "JWT", **(headers or {})})
    text = f"{header}.{part(claims(**given))}"
    signature = jwt.get_algorithm_by_name(algorithm).sign(text.encode(), key.encode() if isinstance(key, str) else key)
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def unsigned(algorithm: str) -> str:
    return f"{part({'alg': algorithm})}.{part(claims())}."


def replaced(token: str, at: int, text: str) -> str:
    """Replace one of the three parts of a token."""
    parts = token.split(".")
    parts[at] = text
    return ".".join(parts)


def with_other_bit(token: str) -> str:
    """Change one bit in the middle of the signature."""
    head, _, signature = token.rpartition(".")
    middle = len(signature) // 2
    return f"{head}.{signature[:middle]}{'A' if signature[middle] != 'A' else 'B'}{signature[middle + 1 :]}"


def confused() -> str:
    """Use the public key of the app as a shared secret."""
    header, payload = part({"alg": "HS256"}), part(claims())
    mac = hmac.digest(public_pem(ED), f"{header}.{payload}".encode(), "sha256")
    return f"{header}.{payload}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


JWT_FAULTS: Final[Mapping[str, tuple[Callable[[], str], str]]] = {
    "expired": (lambda: signed(exp=time.time() - 60), "expired"),
    "expired for years": (lambda: signed(exp=1), "expired"),
    "not yet valid": (lambda: signed(nbf=time.time() + 60), "bad_credential"),
    "issued in the future": (lambda: signed(iat=time.time() + 60), "bad_credential"),
    "never expires": (lambda: signed(exp=None), "bad_credential"),
    "wrong audience": (lambda: signed(aud="shop"), "bad_credential"),
    "another app's": (lambda: signed(aud=["chat", "pong"]), "bad_credential"),
    "no audience": (lambda: signed(aud=None), "bad_credential"),
    "wrong issuer": (lambda: signed(iss="you"), "bad_credential"),
    "no issuer": (lambda: signed(iss=None), "bad_credential"),
    "another room's": (lambda: signed(rooms=["two"]), "wrong_room"),
    "no room": (lambda: signed(rooms=[]), "wrong_room"),
    "another key's": (lambda: signed(OTHER_SECRET), "bad_credential"),
    "an empty key's": (lambda: signed(b""), "bad_credential"),
    "wrong algorithm": (lambda: signed(algorithm="HS512"), "bad_credential"),
    "algorithm of another type": (lambda: signed(RSA, "RS256"), "bad_credential"),
    "none": (lambda: unsigned("none"), "bad_credential"),
    "None": (lambda: unsigned("None"), "bad_credential"),
    "no algorithm": (lambda: unsigned(""), "bad_credential"),
    "signature removed": (lambda: replaced(signed(), 2, ""), "bad_credential"),
    "signature shortened": (lambda: signed()[:-4], "bad_credential"),
    "signature lengthened": (lambda: f"{signed()}AAAA", "bad_credential"),
    "signature tampered": (lambda: with_other_bit(signed()), "bad_credential"),
    "claims tampered": (lambda: replaced(signed(), 1, part(claims(sub="bob"))), "bad_credential"),
    "header tampered": (lambda: replaced(signed(), 0, part({"alg": "HS512"})), "bad_credential"),
    "header changed to none": (lambda: replaced(signed(), 0, part({"alg": "none"})), "bad_credential"),
    "critical extension": (lambda: signed(headers={"crit": ["b64"], "b64": False}), "bad_credential"),
    "claims are a list": (lambda: f"{part({'alg': 'HS256'})}.{part([])}.AAAA", "bad_credential"),
    "time is a text": (lambda: signed(exp="9999999999"), "bad_credential"),
    "time is huge": (lambda: signed(exp=10**400), "bad_credential"),
    "user is a list": (lambda: signed(sub=["ann"]), "bad_credential"),
    "two parts": (lambda: signed().rpartition(".")[0], "bad_credential"),
    "four parts": (lambda: f"{signed()}.AAAA", "bad_credential"),
    "garbage": (lambda: "a.b.c", "bad_credential"),
    "empty": (lambda: "", "bad_credential"),
}
"""Each with the reason for which it is denied."""


def jwt_door() -> Door:
    table = {"secret": SECRET, "algorithms": ["HS256"], "audience": "game", "issuer": "me", "leeway": "10s"}
    return Door(**{"from": list(PLACES)}, jwt=table)


@pytest.mark.parametrize("place", PLACES)
def test_a_good_token_lets_in_from_each_place(place: str) -> None:
    headers, query = show(place, signed())

    identity = jwt_door().admits(headers, query=query)

    assert (identity.user, identity.method, identity.rooms) == ("ann", "jwt", ("one", "team-*"))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", JWT_FAULTS)
def test_a_token_with_a_fault_is_refused_in_each_place(place: str, fault: str) -> None:
    make, reason = JWT_FAULTS[fault]
    door = jwt_door()
    headers, query = show(place, make())

    assert door.denies(headers, query=query) == reason


@pytest.mark.parametrize("place", PLACES)
def test_a_token_in_a_place_that_is_not_listed_is_none(place: str) -> None:
    others = [other for other in PLACES if other != place]
    door = Door(**{"from": others}, jwt={"secret": SECRET})
    headers, query = show(place, signed())

    assert door.denies(headers, query=query) == "no_credential"


@pytest.mark.parametrize(
    "make", [confused, lambda: signed(OTHER_ED, "EdDSA"), lambda: signed(RSA, "RS256"), lambda: unsigned("none")]
)
def test_a_public_key_verifies_its_own_tokens_alone(tmp_path: Path, make: Callable[[], str]) -> None:
    (tmp_path / "key.pem").write_bytes(public_pem(ED))
    door = Door(jwt={"keys_file": str(tmp_path / "key.pem")})

    assert door.admits(show("header", signed(ED, "EdDSA"))[0]).user == "ann"
    assert door.denies(show("header", make())[0]) == "bad_credential"


@pytest.mark.parametrize("first", PLACES)
@pytest.mark.parametrize("second", PLACES)
def test_of_two_tokens_the_first_listed_place_decides(first: str, second: str) -> None:
    if first == second:
        pytest.skip("one place")
    door = Door(**{"from": [first, second]}, jwt={"secret": SECRET, "audience": "game"})
    good, bad = show(first, signed()), show(second, signed(OTHER_SECRET))
    worse, better = show(first, signed(OTHER_SECRET)), show(second, signed())

    assert door.admits({**good[0], **bad[0]}, query=good[1] or bad[1]).user == "ann"
    assert door.denies({**worse[0], **better[0]}, query=worse[1] or better[1]) == "bad_credential"


def test_two_tokens_in_one_header_are_refused() -> None:
    headers = {"Authorization": f"Bearer {signed()}, Bearer {signed()}"}

    assert jwt_door().denies(headers) == "bad_credential"


# Opaque tokens, passwords, names from proxies


def files_door(folder: Path, **more: Any) -> Door:
    digest = hashlib.sha256(OPAQUE.encode()).hexdigest()
    (folder / "tokens").write_text(f"ann:{digest}:one,team-*:read\n")
    (folder / "users").write_bytes(b"ann:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)) + b"\n")
    return Door(
        **{"from": list(PLACES)},
        tokens_file=str(folder / "tokens"),
        users_file=str(folder / "users"),
        header="Remote-User",
        **more,
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("token", "room", "reason"),
    [
        (OPAQUE, "one", ""),
        (OPAQUE, "team-a", ""),
        (OPAQUE, "two", "wrong_room"),
        (OPAQUE[:-1], "one", "bad_credential"),
        (f"{OPAQUE}x", "one", "bad_credential"),
        (OPAQUE.upper(), "one", "bad_credential"),
        (hashlib.sha256(OPAQUE.encode()).hexdigest(), "one", "bad_credential"),
        (signed(), "one", "bad_credential"),
        ("", "one", "bad_credential"),
    ],
    ids=["good", "pattern", "room", "shortened", "lengthened", "case", "hash", "jwt", "empty"],
)
def test_an_opaque_token_in_each_place(tmp_path: Path, place: str, token: str, room: str, reason: str) -> None:
    headers, query = show(place, token)

    verdict = files_door(tmp_path).decide(headers, query=query, room=room)

    assert (verdict.reason if isinstance(verdict, Denial) else "") == reason


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (basic("ann", "secret"), ""),
        (basic("ann", "Secret"), "bad_credential"),
        (basic("ann", ""), "bad_credential"),
        (basic("ann", "secret\0x"), "bad_credential"),
        (basic("bob", "secret"), "bad_credential"),
        (basic("", ""), "bad_credential"),
        ({"Authorization": "Basic !!!"}, "bad_credential"),
        ({"Authorization": "Basic"}, "bad_credential"),
        ({"Authorization": f"Bearer {base64.b64encode(b'ann:secret').decode()}"}, "bad_credential"),
        ({"Authorization": "Digest username=ann"}, "no_credential"),
        ({}, "no_credential"),
    ],
    ids=["good", "wrong", "none", "nul", "user", "empty", "base64", "missing", "bearer", "digest", "nothing"],
)
def test_a_password(tmp_path: Path, headers: dict[str, str], reason: str) -> None:
    verdict = files_door(tmp_path).decide(headers)

    assert (verdict.reason if isinstance(verdict, Denial) else "") == reason


@pytest.mark.parametrize(
    ("headers", "is_from_proxy", "reason"),
    [
        ({"Remote-User": "ann"}, True, ""),
        ({"Remote-User": "ann"}, False, "no_credential"),
        ({"remote-user": "ann"}, False, "no_credential"),
        ({"Remote_User": "ann"}, False, "no_credential"),
        ({"REMOTE-USER": "ann", "Remote_User": "bob"}, False, "no_credential"),
        ({"Remote-User": "ann, bob"}, True, "bad_credential"),
        ({"Remote-User": ""}, True, "no_credential"),
    ],
)
def test_a_name_from_a_proxy(tmp_path: Path, headers: dict[str, str], is_from_proxy: bool, reason: str) -> None:
    door = files_door(tmp_path)

    verdict = door.decide(headers, is_from_proxy=is_from_proxy)

    assert (verdict.reason if isinstance(verdict, Denial) else "") == reason
    assert door.passed is not None
    assert not [name for name in door.passed.headers if name.replace("_", "-") == "remote-user"]


def test_an_alias_of_the_header_names_nobody_beside_the_proxys_own(tmp_path: Path) -> None:
    door = files_door(tmp_path)

    verdict = door.decide({"Remote-User": "ann", "Remote_User": "root"}, is_from_proxy=True)

    assert not isinstance(verdict, Identity) or verdict.user == "ann"


# Tickets


def issue(door: Door, room: str = "one", app: str = "game") -> str:
    ann = Identity(user="ann", method="jwt")
    ticket = door.authenticators.resources.tickets.issue(ann, app=app, room=room, address=None)
    assert ticket is not None
    return ticket


def test_a_ticket_lets_in_once() -> None:
    door = Door(jwt={"secret": SECRET})
    query = f"?ticket={issue(door)}"

    assert door.admits(query=query).method == "ticket"
    assert door.denies(query=query) == "bad_credential"


@pytest.mark.parametrize(
    ("room", "app", "reason"), [("two", "game", "wrong_room"), ("one", "chat", "bad_credential")], ids=["room", "app"]
)
def test_a_ticket_for_something_else_is_refused(room: str, app: str, reason: str) -> None:
    door = Door(jwt={"secret": SECRET})

    assert door.denies(query=f"?ticket={issue(door, room, app)}") == reason


def test_an_expired_ticket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(jwt={"secret": SECRET})
    ticket = issue(door)
    tickets = door.authenticators.resources.tickets

    monkeypatch.setattr(tickets, "_clock", lambda: time.monotonic() + LIFETIME + 1)

    assert door.denies(query=f"?ticket={ticket}") == "expired"


def test_a_bad_ticket_is_not_made_good_by_a_token() -> None:
    door = Door(jwt={"secret": SECRET, "audience": "game"})
    headers, _ = show("header", signed())

    assert door.denies(headers, query="?ticket=guess") == "bad_credential"
    assert door.admits(headers, query=f"?ticket={issue(door)}").method == "ticket"


# Hooks


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("shown", [{"Cookie": "session=1"}, {"Authorization": "Bearer 1"}], ids=["cookie", "authorization"])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _: respond({"user": "ann"}), ""),
        (lambda _: respond({"user": "ann", "rooms": ["two"]}), "wrong_room"),
        (lambda _: respond({"user": "ann", "expires_at": 1}), "expired"),
        (lambda _: respond(status=401), "bad_credential"),
        (lambda _: respond(status=403), "forbidden"),
        (lambda _: respond(b"ok"), "unavailable"),
        (lambda _: respond({}), "unavailable"),
        (lambda _: respond({"user": "ann"}, status=500), "unavailable"),
        (lambda _: respond(status=302, headers={"Location": "/other"}), "unavailable"),
        (keep_silent, "unavailable"),
    ],
    ids=["good", "room", "expired", "401", "403", "text", "empty", "500", "redirect", "slow"],
)
async def test_a_hook(anyio_backend: str, shown: dict[str, str], answer: Answering, reason: str) -> None:
    async with open_web(answer) as web:
        door = Door(hook={"url": web.url, "timeout": "200ms" if answer is keep_silent else "10s"})
        verdict = await door.check(shown)

    assert (verdict.reason if isinstance(verdict, Denial) else "") == reason


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_dead_hook_lets_nobody_in(anyio_backend: str) -> None:
    async with open_web(lambda _: respond({"user": "ann"})) as web:
        url = web.url

    verdict = await Door(hook={"url": url, "timeout": "1s"}).check({"Cookie": "session=1"})

    assert isinstance(verdict, Denial)
    assert verdict.reason == "unavailable"


# Rotation


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_rotated_key_ends_the_old_tokens(tmp_path: Path, anyio_backend: str) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(public_pem(ED))
    door = Door(jwt={"keys_file": str(file)})
    old, new = (show("header", signed(key, "EdDSA"))[0] for key in (ED, OTHER_ED))
    assert door.admits(old).user == "ann"

    file.write_bytes(public_pem(ED) + public_pem(OTHER_ED))
    await door.reload()
    assert door.admits(old).user == door.admits(new).user == "ann"

    file.write_bytes(public_pem(OTHER_ED))
    await door.reload()
    assert door.denies(old) == "bad_credential"
    assert door.admits(new).user == "ann"


# Both lanes, with real sockets


async def test_each_refusal_on_both_lanes(serve: Serve) -> None:
    auth = {"from": list(PLACES), "jwt": {"secret": SECRET, "audience": "game", "issuer": "me", "algorithms": "HS256"}}
    site = await serve(game={"command": ["cat"], "auth": auth})
    chosen = ("expired", "another room's", "wrong audience", "none", "signature tampered")

    for fault in chosen:
        make, reason = JWT_FAULTS[fault]
        headers, query = show("cookie:session", make())
        assert await site.refused(f"/game/one{query}", additional_headers=headers) == (403 if reason == "wrong_room" else 401)
        page = await site.join("/game/one", additional_headers=headers, origin=f"http://127.0.0.1:{site.port}")
        assert (await page.wait_closed())[0] == (4403 if reason == "wrong_room" else 4401)
    assert site.gateway.pools["game"].rooms_total == 0
    assert site.gateway.pools["game"].refusals == {"expired": 2, "wrong_room": 2, "bad_credential": 6}

    for place in PLACES:
        headers, query = show(place, signed())
        protocols = headers.pop("Sec-WebSocket-Protocol", "").split(", ")
        ann = await site.join(
            f"/game/one{query}", additional_headers=headers, subprotocols=protocols if place == "subprotocol" else None
        )
        await ann.say(place)
        await ann.hear(place)
        await ann.leave()
