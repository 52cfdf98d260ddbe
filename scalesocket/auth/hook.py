"""The `hook`: a server of the site's owner is asked who a client is, with a POST of JSON.

Anything but a clear answer is "unavailable", never "let in". The table of answers is bounded, and so are the questions in flight.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from scalesocket.auth.attempt import Attempt, Verdict
from scalesocket.auth.denial import BAD_CREDENTIAL, EXPIRED, FORBIDDEN, NOT_AVAILABLE, Denial
from scalesocket.auth.http_client import FetchError, HttpClient, Response
from scalesocket.auth.identity import WRITER, Identity, Role, roles_of
from scalesocket.auth.jwt import MAX_USER
from scalesocket.config.hook_settings import is_of_connection
from scalesocket.config.model import Hook
from scalesocket.wire.handshake import Request, decode_utf8

log = structlog.get_logger("auth")

MAX_ANSWER: Final = 64 * 1024
"""Bytes of a hook's response body."""
MAX_CACHED: Final = 4096
"""Answers that are kept, under `cache`; the oldest goes first."""
_PLACE: Final = re.compile(r"`\$\.(\w+)")
"""The key that an error of msgspec is about."""
_KEY: Final = secrets.token_bytes(32)
"""Key of the hashes of questions: without it they cannot be compared with hashes of guessed credentials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a hook is asked."""

    app: str
    room: str
    body: bytes = field(repr=False)
    """JSON, with the credentials."""
    key: bytes = field(repr=False)
    """Its hash."""


class HookIdentity(Identity, frozen=True, kw_only=True, gc=False):
    """An identity about which the hook is asked again, at the interval `recheck`."""

    question: Question


class Answer(msgspec.Struct, forbid_unknown_fields=False):
    """The body of a response with the status 200."""

    user: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_USER)]
    rooms: list[str] | UnsetType = UNSET
    """Missing: all rooms. A `null` is a wrong type: a list that was lost must not open all of them."""
    roles: list[Role] | UnsetType = UNSET
    info: Any = None
    expires_at: float | UnsetType = UNSET
    """Unix time; missing: never."""


_decoder: Final = msgspec.json.Decoder(Answer)


class HookClient:
    """The hook of one app. `http` is the client of the site; the caller closes it."""

    def __init__(self, app: str, settings: Hook, http: HttpClient, workers: int = 1) -> None:
        """Ask the hook of an app. `workers`: the processes that do, which share `max_in_flight` evenly."""
        self.settings = settings
        self.most = max(1, settings.max_in_flight // workers)
        """The most questions of this process that wait for an answer."""
        self._app = app
        self._http = http
        self._cache: dict[bytes, tuple[float, Verdict]] = {}
        """Answers by the hash of their question, with the time until which each holds, oldest first."""
        self._in_flight = 0
        self._in_flight_again = 0
        self._is_down = False

    @property
    def in_flight(self) -> int:
        """Questions without an answer so far."""
        return self._in_flight

    def verify(self, attempt: Attempt) -> Verdict | Coroutine[None, None, Verdict] | None:
        """Decide on an attempt. None if the client sent nothing that the hook could judge."""
        if attempt.credentials.is_empty:
            return None
        question = self.question(attempt.request, attempt.room)
        answer = self.find(question)
        if answer is not None:
            return self._with_question(question, answer)
        return NOT_AVAILABLE if self.is_busy else self._ask_newcomer(question)

    @property
    def is_busy(self) -> bool:
        """Whether so many questions wait for an answer that no further one may."""
        return self._in_flight >= self.most

    @property
    def most_again(self) -> int:
        """The most questions about clients in their rooms at the same time."""
        return max(1, self.most // 2)

    def question(self, request: Request, room: str) -> Question:
        """Make the question about a request: as received, with its credentials."""
        body = msgspec.json.encode(
            {
                "app": self._app,
                "room": room,
                "origin": request.headers.get("origin"),
                "address": None if request.peer is None else request.peer[0],
                "headers": select_headers(request.headers, self.settings.headers),
                "query": request.query,
            }
        )
        return Question(app=self._app, room=room, body=body, key=hashlib.blake2b(body, key=_KEY, digest_size=32).digest())

    def find(self, question: Question) -> Verdict | None:
        """Return the answer to the same question if it still holds."""
        found = self._cache.get(question.key)
        if found is None or found[0] <= time.monotonic():
            return None
        answer = found[1]
        return EXPIRED if isinstance(answer, Identity) and is_expired(answer) else answer

    async def ask(self, question: Question) -> Verdict:
        """Ask within `timeout`. Unavailable at once if too many questions are waiting for an answer."""
        if self.is_busy:
            return NOT_AVAILABLE
        self._in_flight += 1
        try:
            return await self._exchange(question)
        finally:
            self._in_flight -= 1

    async def ask_again(self, question: Question) -> Verdict:
        """Ask about a client that is in its room. Newcomers always keep half of the questions."""
        if self._in_flight_again >= self.most_again:
            return NOT_AVAILABLE
        self._in_flight_again += 1
        try:
            return await self.ask(question)
        finally:
            self._in_flight_again -= 1

    async def _ask_newcomer(self, question: Question) -> Verdict:
        return self._with_question(question, await self.ask(question))

    def _with_question(self, question: Question, answer: Verdict) -> Verdict:
        """Keep the question with the identity if it will be asked again. Never in the cache: it contains the credential."""
        if self.settings.recheck is None or isinstance(answer, Denial):
            return answer
        return HookIdentity(**msgspec.structs.asdict(answer), question=question)

    async def _exchange(self, question: Question) -> Verdict:
        settings = self.settings
        try:
            response = await self._http.post_json(settings.url, question.body, timeout=settings.timeout, max_body=MAX_ANSWER)
            answer = read_answer(response)
        except FetchError as error:
            self._note_failure(str(error))
            return NOT_AVAILABLE
        if self._is_down:
            self._is_down = False
            log.info("hook answers again", app=self._app)
        self._remember(question, answer)
        return answer

    def _remember(self, question: Question, answer: Verdict) -> None:
        seconds = self.settings.cache
        self._cache.pop(question.key, None)
        if seconds <= 0:
            return
        if len(self._cache) >= MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        self._cache[question.key] = (time.monotonic() + seconds, answer)

    def _note_failure(self, problem: str) -> None:
        """Log the first failure after a success."""
        if not self._is_down:
            self._is_down = True
            log.warning("hook unavailable: clients are turned away", app=self._app, problem=problem)


def select_headers(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """Return the named headers that a request has, without those of the connection and of the websocket handshake."""
    dropped = {name.strip().lower() for name in headers.get("connection", "").split(",")}
    return {
        name: decode_utf8(headers[lower])
        for name in names
        if (lower := name.lower()) in headers and lower not in dropped and not is_of_connection(lower)
    }


def read_answer(response: Response) -> Verdict:
    """Read a hook's response. Raises FetchError unless it says clearly whether the client may come in."""
    if response.status == 401:
        return BAD_CREDENTIAL
    if response.status == 403:
        return FORBIDDEN
    if response.status != 200:
        raise FetchError(f"the response has the status {response.status} (200, 401 or 403 is expected)")
    try:
        answer = _decoder.decode(response.body)
        info = msgspec.json.encode(answer.info).decode()  # on one line
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        found = _PLACE.search(str(error))  # the rest of the text may quote a value
        raise FetchError(f"the response is not the expected JSON{f': see {found[1]}' if found else ''}") from None
    if not answer.user.isprintable():
        raise FetchError("the response is not the expected JSON: user has characters that cannot be printed")
    identity = Identity(
        user=answer.user,
        method="hook",
        rooms=None if answer.rooms is UNSET else tuple(answer.rooms),
        roles=WRITER if answer.roles is UNSET else roles_of(answer.roles),
        info=info,
        expires_at=None if answer.expires_at is UNSET else answer.expires_at,
    )
    return EXPIRED if is_expired(identity) else identity


def is_expired(identity: Identity) -> bool:
    """Whether an identity held only until some time in the past."""
    return identity.expires_at is not None and identity.expires_at <= time.time()
