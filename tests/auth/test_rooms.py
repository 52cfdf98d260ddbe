"""What an identity means in a room: roles, expiry, and what the program learns."""

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from scalesocket.auth.identity import Identity, Role, matches, roles_of
from scalesocket.config.model import Server
from scalesocket.edge import keepalive
from scalesocket.wire.batch import ClientId
from scalesocket.wire.template import ClientIdentity, parse_template
from tests.auth.tokens import AUTH, SECRET, bearer, token
from tests.conftest import Serve
from tests.playing import program
from tests.rooms.acting import MemoryServe, in_memory

CAT: Mapping[str, Any] = {"command": ["cat"], "auth": AUTH}


def shows(**claims: Any) -> dict[str, Any]:
    return {"additional_headers": bearer(token(**claims))}


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Advance the clock by which credentials expire; that of the event loop is virtual."""
    now = time.time() + seconds
    monkeypatch.setattr(keepalive.time, "time", lambda: now)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("red", "red", True),
        ("red", "reds", False),
        ("red-*", "red-", True),
        ("red-*", "blue", False),
        ("*", "", True),
        ("a*b*c", "aXbYc", True),
        ("a*b*c", "abc", True),
        ("a*b*c", "acb", False),
        ("ab*ba", "aba", False),
        ("[a-z]", "a", False),
        ("*a" * 60, "a" * 128 + "b", False),
    ],
)
def test_a_pattern_matches_a_whole_name(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


def test_the_role_create_alone_includes_write_and_unknown_roles_give_nothing() -> None:
    assert roles_of(["create", "moderator"]) == {Role.CREATE, Role.WRITE}
    assert roles_of(["READ"]) == roles_of(["reader", "scope:write"]) == set()
    assert roles_of(["read"]) == {Role.READ}
    assert roles_of([]) == set()
    assert Identity(method="jwt").may_write


@in_memory
async def test_a_reader_receives_and_its_own_messages_are_dropped_and_counted(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "max_message": 5})
    ann = await site.join("/game/one", **shows())
    eve = await site.join("/game/one", **shows(roles=["read"]))

    await eve.say("quiet")
    await ann.say("hello")

    await ann.hear("hello")
    await eve.hear("hello")
    counts = site.room("game", "one").counts
    assert (counts.messages_in, counts.messages_dropped, counts.bytes_in) == (2, 1, 10)
    await eve.leave()
    assert len(site.room("game", "one").clients) == 1


async def test_a_reader_is_silent_on_both_lanes(serve: Serve) -> None:
    site = await serve(game=CAT)
    eve = await site.join("/game/one", **shows(roles="read"))
    ann = await site.join("/game/one", **shows())

    await eve.say("quiet")
    await eve.connection.ping()
    await ann.say("hello")

    await eve.hear("hello")
    await eve.hear_nothing()


@in_memory
async def test_with_create_by_role_others_join_only_rooms_that_exist(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "auth": {**AUTH, "create": "role"}})

    early = await site.join("/game/one", **shows())
    await site.join("/game/one", **shows(roles=["create"]))
    late = await site.join("/game/one", **shows())

    assert await early.wait_closed() == (4403, "the room does not exist, and you may not open it")
    await late.say("hello")
    await late.hear("hello")
    assert site.gateway.pools["game"].refusals == {"may_not_create": 1}


@in_memory
async def test_a_client_is_closed_when_its_credential_has_expired(serve: MemoryServe, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await serve(game=CAT)
    ann = await site.join("/game/one", **shows(ttl=30))
    bob = await site.join("/game/one", **shows(ttl=90))
    pass_time(monkeypatch, 60)

    assert await ann.wait_closed() == (4401, "the credential has expired")
    await bob.say("hello")
    await bob.hear("hello")


@in_memory
async def test_grace_is_the_time_that_an_expired_client_may_stay(serve: MemoryServe, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await serve(game={**CAT, "auth": {**AUTH, "grace": "1m"}})
    ann = await site.join("/game/one", **shows(ttl=30))

    pass_time(monkeypatch, 60)
    await ann.hear_nothing(within=5)
    assert ann.closed is None

    pass_time(monkeypatch, 60)
    assert await ann.wait_closed() == (4401, "the credential has expired")


async def test_an_expired_client_is_closed_on_both_lanes(serve: Serve) -> None:
    site = await serve(game={**CAT, "ping_interval": 0.1})
    ann = await site.join("/game/one", **shows(ttl=0.3))

    assert await ann.wait_closed() == (4401, "the credential has expired")


@in_memory
async def test_the_program_learns_user_and_roles_by_the_join_record(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "routing": "json", "auth": {**AUTH, "anonymous": True}})
    ann = await site.join("/game/one", **shows(user='7"', roles=["write", "create"]))
    guest = await site.join("/game/one")

    joins = [json.loads(await ann.listen()), json.loads(await ann.listen())]

    assert [{key: join[key] for key in ("t", "_event", "user", "roles")} for join in joins] == [
        {"t": "Join", "_event": "join", "user": '7"', "roles": ["write", "create"]},
        {"t": "Join", "_event": "join", "user": None, "roles": ["write"]},
    ]
    assert [join["_from"] for join in joins] == [ann.id, guest.id]


@pytest.mark.parametrize(
    ("template", "written"),
    [
        ('{"u":#USER,"r":#ROLES,"i":#INFO}', '{"u":"1","r":["read","write"],"i":{"a\\u003bb":[1]}}'),
        ('{"u":"#USER","r":"#ROLES","i":"#INFO"}', '{"u":"1","r":"read,write","i":"{\\"a\\u003bb\\":[1]}"}'),
        ("#USER #ROLES #INFO #USERS #ID", '1 read,write {"a%3Bb":[1]} #USERS 5'),
    ],
)
def test_templates_write_users_as_their_place_demands(template: str, written: str) -> None:
    who = ClientIdentity("1", ("read", "write"), '{"a;b":[1]}')

    assert parse_template(template, ";", has_identity=True).render(ClientId(5), "one", "", "", who).decode() == written


def test_templates_of_apps_without_auth_keep_these_words_as_text() -> None:
    assert parse_template("#USER #ROLES #INFO #ID").render(ClientId(5), "one", "", "") == b"#USER #ROLES #INFO 5"


async def test_no_credential_reaches_the_environment_of_a_program(serve: Serve) -> None:
    secret = token()
    site = await serve(
        game={
            "command": program("state"),
            "auth": {"jwt": {"secret": SECRET}, "from": ["subprotocol", "cookie:s", "query:token"]},
        }
    )
    headers = {"Cookie": f"a=1; s={secret}"}

    ann = await site.join(f"/game/one?a=1&token={secret}", subprotocols=["bearer", secret], additional_headers=headers)

    env = json.loads(await ann.listen())["env"]
    assert (env["QUERY_STRING"], env["HTTP_COOKIE"]) == ("a=1", "a=1")
    assert "HTTP_SEC_WEBSOCKET_PROTOCOL" not in env
    assert secret not in str(env)
    assert secret not in str(serve.events)


@in_memory
async def test_the_peer_of_the_connection_decides_whether_a_header_is_trusted(serve: MemoryServe) -> None:
    app = {"command": ["cat"], "auth": {"header": "Remote-User"}}
    forged = {"Remote-User": "ann", "X-Forwarded-For": "192.0.2.7"}

    behind_proxy = await serve(Server(trusted_proxies=["127.0.0.1/32"]), game=app)
    direct = await serve(Server(trusted_proxies=["192.0.2.0/24"]), game=app)
    untrusting = await serve(game=app)

    ann = await behind_proxy.join("/game/one", additional_headers=forged)
    assert ann.identity is not None
    assert (ann.identity.user, ann.peer) == ("ann", ("192.0.2.7", 0))
    assert await direct.refused("/game/one", additional_headers=forged) == 401
    assert await untrusting.refused("/game/one", additional_headers=forged) == 401
