"""Fuzz targets: credentials and tokens."""

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Final

from scalesocket.auth.attempt import Attempt
from scalesocket.auth.credentials import CredentialFinder, Credentials
from scalesocket.auth.denial import Denial
from scalesocket.auth.explanation import NotATokenError, judge_token, read_token
from scalesocket.auth.hook import read_answer
from scalesocket.auth.http_client import FetchError, Response
from scalesocket.auth.identity import Identity
from scalesocket.auth.jwt import MAX_USER, JwtVerifier, decode_part
from scalesocket.auth.keys import KeyFileError, parse_keys, secret_key
from scalesocket.auth.tokens import LineError, find_token, parse_tokens
from scalesocket.auth.users import parse_users
from scalesocket.config.parse import parse_site
from scalesocket.wire.handshake import Request
from scalesocket.wire.text import is_utf8
from tests.fuzz.source import Source

SECRET: Final = "a secret of the fuzzer, not of anybody else"
SITE: Final = f"""
[apps.chat]
command = "cat"
[apps.chat.auth]
from = ["ticket", "header", "subprotocol", "cookie:session", "query:token"]
header = "Remote-User"
jwt = {{ secret = "{SECRET}", algorithms = ["HS256"] }}
"""
AUTH: Final = parse_site(SITE, Path("/srv/site.toml"), {}).apps["chat"].auth
assert AUTH is not None
assert AUTH.jwt is not None
FINDER: Final = CredentialFinder(AUTH)
KEYS: Final = secret_key(SECRET, ["HS256"])
VERIFIER: Final = JwtVerifier(AUTH.jwt, "chat", lambda: KEYS)
FIELDS: Final = ("authorization", "cookie", "sec-websocket-protocol", "remote-user", "remote_user")


def make_request(headers: dict[str, str], query: str) -> Request:
    return Request("GET", f"/chat/lobby?{query}", "/chat/lobby", query, headers, ("192.0.2.1", 4321), None, False, "1.1")


def fuzz_credentials(data: bytes) -> None:
    """Credentials are found, and nothing that counts as one is left in the request."""
    source = Source(data)
    headers = {name: value.decode("latin-1").strip() for name in FIELDS if (value := source.part())}
    request = make_request(headers, source.rest().decode(errors="replace"))
    for is_from_proxy in (False, True):
        found, rest = FINDER.find(request, is_from_proxy=is_from_proxy)
        repr(found)
        again, unchanged = FINDER.find(rest, is_from_proxy=True)
        assert again.is_empty
        assert unchanged == rest
        assert rest.query in rest.target
    for verdict in (VERIFIER.verify(Attempt(found, "lobby", request)),):
        assert verdict is None or isinstance(verdict, Denial)


def fuzz_jwt(data: bytes) -> None:
    """Tokens: an identity only with a signature, whatever header and claims are."""
    source = Source(data)
    if source.flag():
        header, claims = source.part(), source.rest()
        signed = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in (header, claims))
        signature = hmac.digest(SECRET.encode(), signed, hashlib.sha256)
        token = (signed + b"." + urlsafe_b64encode(signature).rstrip(b"=")).decode()
    else:
        token = source.rest().decode("latin-1")
    verdict = VERIFIER.verify(Attempt(Credentials(tokens=(token,)), "lobby", make_request({}, "")))
    check_explanation(token, verdict)
    if isinstance(verdict, Identity):
        assert b"HS256" in header
        assert verdict.user is None or 0 < len(verdict.user) <= MAX_USER
        json.loads(verdict.info)
        verdict.may_enter("lobby")
    else:
        assert verdict is None or isinstance(verdict, Denial)


def check_explanation(token: str, verdict: object) -> None:
    """`scalesocket token --explain` says the same as the server."""
    assert AUTH is not None
    assert AUTH.jwt is not None
    try:
        read = read_token(token)
    except NotATokenError:
        # The server does not look at members of the header that it does not know: they may even be invalid UTF-8.
        assert not isinstance(verdict, Identity) or not is_utf8(decode_part(token.partition(".")[0]))
        return
    opinion = judge_token(read, AUTH.jwt, "chat", KEYS)
    assert (opinion.identity is not None) == isinstance(verdict, Identity), opinion.lacks
    assert opinion.identity is not None or all(opinion.lacks)


def fuzz_hook(data: bytes) -> None:
    """The answer of a hook: a decision, or an error that lets nobody in."""
    source = Source(data)
    status = source.choose((200, 401, 403, 500))
    try:
        verdict = read_answer(Response(status=status, headers={}, body=source.rest()))
    except FetchError:
        return
    if isinstance(verdict, Identity):
        assert status == 200
        json.loads(verdict.info)
        assert "\n" not in verdict.info
        verdict.may_enter("lobby")


def fuzz_tokens(data: bytes) -> None:
    """Files of tokens, and tokens."""
    source = Source(data)
    token = source.part().decode("latin-1")
    try:
        table = parse_tokens(source.rest().decode(errors="replace"))
    except LineError as error:
        assert "\n" not in str(error)
        return
    found = find_token(table, token)
    digest = hashlib.sha256(token.encode()).hexdigest().encode()
    assert (found is not None) == any(entry.digest.hex().encode() == digest for entries in table.values() for entry in entries)


def fuzz_users(data: bytes) -> None:
    """Files of users."""
    try:
        table = parse_users(data.decode(errors="replace"))
    except LineError as error:
        assert "\n" not in str(error)
    else:
        assert all(name.isprintable() for name in table.hashes)


def fuzz_keys(data: bytes) -> None:
    """Files of public keys."""
    try:
        keys = parse_keys(data.decode(errors="replace"))
    except KeyFileError as error:
        assert str(error)
    else:
        assert all(key.algorithms for key in keys)
