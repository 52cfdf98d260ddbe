"""Sites in memory with programs and players that act: the API of `tests.playing` without sockets and processes.

`@in_memory` gives a test a `serve` like that of `tests.conftest`, on a loop of virtual time: nothing waits, and what happens in
which order is decided by the test alone. A command names one of `PROGRAMS`, or of the test's own programs, and its arguments.
A room that had two programs at the same time would fail.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import wraps
from types import TracebackType
from typing import Any, Final, Self

import anyio

from scalesocket.admission.control import Admission, PendingAdmission
from scalesocket.admission.refusals import Refusal
from scalesocket.backends.backend import Exit, Receiver
from scalesocket.capacity.capacity import Capacity
from scalesocket.config.model import App, Server, Site
from scalesocket.errors import BackendError, Close
from scalesocket.gateway import Gateway
from scalesocket.rooms.room import Room
from scalesocket.rooms.sweep import Sweep
from scalesocket.wire.batch import Batch
from scalesocket.wire.frames import Opcode
from scalesocket.wire.handshake import Request, parse_request
from tests.conftest import capture_all_logs
from tests.playing import site_of
from tests.rooms.memory import MemoryClient, run_virtual

DEADLINE: Final = 60.0
"""Virtual seconds that anything a test waits for may take."""
KILLED: Final = 9


class Actor:
    """A program in memory (`backends.backend.Backend`): a coroutine that reads its input, prints, and returns its exit status."""

    def __init__(
        self, act: "Program", receiver: Receiver, words: tuple[str, ...], *, room: tuple[str, str], pid: int, life: int
    ) -> None:
        self.words = words
        """Its command, after the name."""
        self.room = room
        """App and room."""
        self.pid = pid
        self.life = life
        """How many programs this room has had, this one included."""
        self.taken = b""
        """All input that was written to it."""
        self._receiver = receiver
        self._input: list[bytes] = []
        self._has_input = asyncio.Event()
        self._is_input_over = False
        self._is_input_closed = False
        self._is_read = asyncio.Event()
        self._is_read.set()
        self._printed = self._unprinted = 0
        self._task = asyncio.get_running_loop().create_task(act(self), name="program")
        self._end: Exit | None = None

    # --- For the program

    async def read(self) -> bytes:
        """Wait for input and take all of it; empty at its end."""
        while not self._input and not self._is_input_over:
            self._has_input.clear()
            await self._has_input.wait()
        chunk, self._input = b"".join(self._input), []
        return chunk

    async def lines(self) -> AsyncIterator[bytes]:
        """Read line by line, until the end of the input."""
        rest = b""
        while chunk := await self.read():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line

    async def print(self, chunk: bytes) -> None:
        """Print, waiting while nobody reads."""
        self._unprinted += len(chunk)
        await self._is_read.wait()
        self._unprinted -= len(chunk)
        self._printed += len(chunk)
        self._receiver.backend_output(chunk)

    def close_input(self) -> None:
        """Take no more input."""
        self._is_input_closed = True

    # --- For the test and the room

    @property
    def is_running(self) -> bool:
        return not self._task.done()

    @property
    def unsent(self) -> int:
        return 0

    @property
    def output(self) -> tuple[int, int]:
        return self._printed, self._unprinted

    def write(self, records: bytes) -> bool:
        if self._is_input_closed or self._task.done():
            return False
        self.taken += records
        self._input.append(records)
        self._has_input.set()
        return True

    def reclaim(self) -> list[bytes]:
        left, self._input = self._input, []
        return left

    def pause_reading(self) -> None:
        self._is_read.clear()

    def resume_reading(self) -> None:
        self._is_read.set()

    async def wait_exit(self) -> Exit:
        await asyncio.wait([self._task])
        return self._exit()

    async def wait_drained(self) -> None:
        return

    async def stop(self, *, signal: int, timeout: float) -> Exit:
        self._is_input_over = True
        self._has_input.set()
        self._is_read.set()
        await asyncio.wait([self._task], timeout=timeout)
        self.kill()
        await asyncio.wait([self._task])
        return self._exit()

    def kill(self) -> None:
        self._task.cancel()

    def _exit(self) -> Exit:
        return Exit(signal=KILLED) if self._task.cancelled() else Exit(status=self._task.result())


Program = Callable[[Actor], Coroutine[Any, Any, int]]


async def cat(actor: Actor) -> int:
    while chunk := await actor.read():
        await actor.print(chunk)
    return 0


async def printf(actor: Actor) -> int:
    """Print an argument with escapes, and end."""
    await actor.print(actor.words[0].encode().decode("unicode_escape").encode("latin-1"))
    return 0


async def alone(actor: Actor) -> int:
    """Print the pid, echo, and go on for some seconds after the end of the input."""
    await actor.print(b"%d\n" % actor.pid)
    await cat(actor)
    await asyncio.sleep(float(actor.words[0]) if actor.words else 0.0)
    return 0


async def lives(actor: Actor) -> int:
    """Print which program of the room this is, echo, and end with STATUS at the line `die`: `lives DEATHS [STATUS]`.

    If DEATHS is negative, end without being asked in so many lives.
    """
    deaths, status = (int(word) for word in (*actor.words, "1", "1")[:2])
    await actor.print(b"life %d\n" % actor.life)
    if actor.life <= -deaths:
        return status
    async for line in actor.lines():
        if line == b"die":
            return status
        await actor.print(line + b"\n")
    return 0


async def mute(actor: Actor) -> int:
    """Read all input and print nothing."""
    while await actor.read():
        pass
    return 0


async def stubborn(actor: Actor) -> int:
    """Say so, and never end."""
    await actor.print(b"stubborn\n")
    await asyncio.get_running_loop().create_future()
    return 0


async def crash(actor: Actor) -> int:
    """Print a line, and end with a status."""
    await actor.print(b"so far so good\n")
    return int(actor.words[0])


async def first_line(actor: Actor) -> int:
    """Echo one line, and end, as `head -n 1` does."""
    async for line in actor.lines():
        await actor.print(line + b"\n")
        return 0
    return 0


PROGRAMS: Final[Mapping[str, Program]] = {
    "cat": cat,
    "printf": printf,
    "alone": alone,
    "lives": lives,
    "mute": mute,
    "stubborn": stubborn,
    "crash": crash,
    "head": first_line,
}


class MemoryPlayer(MemoryClient):
    """A client with the verbs of `tests.playing.Player`. What it says while it is held is read when it is released."""

    def __init__(self, its_request: Request) -> None:
        super().__init__(its_request)
        self._inbox: list[str | bytes] = []
        self._unread: list[tuple[Opcode, bytes]] = []
        self._news = asyncio.Event()
        self._is_out = False
        self.closed_at = float("inf")

    def send(self, batch: Batch) -> None:
        if self.closed is None:
            super().send(batch)
            self._inbox.extend(one.decode() if batch.opcode is Opcode.TEXT else one for one in batch.payloads)
            self._news.set()

    def close(self, close: Close) -> None:
        if self.closed is None:
            self.closed_at = now()
        super().close(close)
        self._news.set()

    def resume_reading(self) -> None:
        super().resume_reading()
        asyncio.get_running_loop().call_soon(self._pass_on)

    def _pass_on(self) -> None:
        while self._unread and not self.held and self.closed is None and not self._is_out:
            event = self._unread.pop(0)
            self.last_received_at = self.last_message_at = now()
            self.room.from_client(self, [event])

    async def say(self, message: str | bytes) -> None:
        text = isinstance(message, str)
        self._unread.append((Opcode.TEXT, message.encode()) if text else (Opcode.BINARY, message))  # type: ignore[union-attr,arg-type]
        self._pass_on()
        await asyncio.sleep(0)

    async def listen(self) -> str | bytes:
        """Receive the next message."""
        async with asyncio.timeout(DEADLINE):
            while not self._inbox:
                assert self.closed is None, f"closed with {self.closed}"
                self._news.clear()
                await self._news.wait()
        return self._inbox.pop(0)

    async def hear(self, *expected: str | bytes) -> None:
        """Receive exactly these messages, in order."""
        for message in expected:
            heard = await self.listen()
            assert heard == message, f"heard {heard!r:.200}, expected {message!r:.200}"

    async def hear_until(self, last: str | bytes) -> list[str | bytes]:
        """Receive messages up to `last`; return them all."""
        heard = [await self.listen()]
        while heard[-1] != last:
            heard.append(await self.listen())
        return heard

    async def hear_nothing(self, within: float = 0.2) -> None:
        await asyncio.sleep(within)
        assert self._inbox == []

    async def wait_closed(self) -> tuple[int, str]:
        """Wait until the server closes; return its code and reason as the peer reads them. Unread messages are dropped."""
        async with asyncio.timeout(DEADLINE):
            while self.closed is None:
                self._news.clear()
                await self._news.wait()
        payload = self.closed.payload()
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    async def leave(self) -> None:
        if not self._is_out:
            self._is_out = True
            if hasattr(self, "room"):
                self.room.leave(self)
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.leave()


class MemorySite:
    """A site in memory, with the verbs of `tests.playing.Playground`."""

    port = 9000

    def __init__(self, gateway: Gateway, actors: list[Actor]) -> None:
        self.gateway = gateway
        self.actors = actors
        """All programs, in the order they were started."""

    async def join(self, path: str, **headers: Any) -> MemoryPlayer:
        """Join a room; headers as in `refused`."""
        admission = await self._decide(path, headers)
        assert not isinstance(admission, Refusal), admission
        player = MemoryPlayer(admission.request)
        refusal = admission.join(player)
        if refusal is not None:
            player.close(refusal)
        await asyncio.sleep(0)
        return player

    async def refused(self, path: str, **headers: Any) -> int:
        """Try to join; return the HTTP status of the refusal."""
        answer = await self._decide(path, headers)
        assert isinstance(answer, Refusal)
        return answer.status

    async def _decide(self, path: str, headers: Mapping[str, Any]) -> Admission | Refusal:
        decision = self.gateway.admission.admit(make_request(path, **headers))
        return await decision.wait() if isinstance(decision, PendingAdmission) else decision

    def room(self, app: str, name: str) -> Room:
        return self.gateway.pools[app].rooms[name]

    def is_alive(self, pid: int) -> bool:
        return self.actors[pid - 1].is_running

    async def until(self, holds: Callable[[], bool], *, within: float = DEADLINE) -> None:
        async with asyncio.timeout(within):
            while not holds():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)

    async def wait_no_rooms(self) -> None:
        await self.until(lambda: all(pool.is_empty for pool in self.gateway.pools.values()))


def make_request(path: str, *, origin: str | None = None, additional_headers: Mapping[str, str] | None = None) -> Request:
    """An upgrade from a browser's page of this origin, or from no browser; the options are those of `websockets.connect`."""
    headers = {"Host": f"127.0.0.1:{MemorySite.port}", **({"Origin": origin} if origin else {}), **(additional_headers or {})}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return parse_request("\r\n".join(lines).encode(), peer=("127.0.0.1", 4321), local=None, is_secure=False)


class MemoryServe:
    """Serves sites in memory: `site = await serve(chat={"command": ["cat"]})`."""

    def __init__(self, stack: AsyncExitStack, events: list[Any]) -> None:
        self._stack = stack
        self.events = events
        """What was logged."""

    async def __call__(
        self,
        server: Server | None = None,
        *,
        programs: Mapping[str, Program] | None = None,
        capacity: Capacity | None = None,
        **apps: App | dict[str, Any],
    ) -> MemorySite:
        table = {**PROGRAMS, **(programs or {})}
        return await self._stack.enter_async_context(open_memory_site(site_of(apps, server), table, capacity))

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.events if entry["event"] == event]


@asynccontextmanager
async def open_memory_site(
    site: Site, programs: Mapping[str, Program], capacity: Capacity | None = None
) -> AsyncIterator[MemorySite]:
    """Run a site whose backends are `programs`; a command that is not among them cannot start.

    `capacity`: what is counted against its limits, if that is shared with others.
    """
    actors: list[Actor] = []

    async def open_backend(app: App, env: Mapping[str, str], room: str, receiver: Receiver) -> Actor:
        assert app.command is not None
        await asyncio.sleep(app.start_delay)
        name, *words = app.command
        if name not in programs:
            raise BackendError(f"cannot start '{name}': no such file or directory")
        place = app.name, room
        earlier = [actor for actor in actors if actor.room == place]
        assert not any(actor.is_running for actor in earlier), f"{place} has two programs at the same time"
        life = len(earlier) + 1
        actors.append(Actor(programs[name], receiver, tuple(words), room=place, pid=len(actors) + 1, life=life))
        return actors[-1]

    async with anyio.create_task_group() as tasks:
        gateway = Gateway(site, open_backend=open_backend, tasks=tasks, capacity=capacity)
        tasks.start_soon(Sweep(gateway.find_all_pools).run)
        try:
            yield MemorySite(gateway, actors)
        finally:
            gateway.cut()
            await gateway.wait_ended()
            tasks.cancel_scope.cancel()


def now() -> float:
    """The virtual time."""
    return asyncio.get_running_loop().time()


def in_memory(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in memory and in virtual time. Its argument `serve` is a `MemoryServe`; others are fixtures."""
    signature = inspect.signature(test)

    @wraps(test)
    def run(**fixtures: Any) -> None:
        async def scene() -> None:
            with capture_all_logs() as events:
                async with AsyncExitStack() as stack:
                    await test(serve=MemoryServe(stack, events), **fixtures)

        run_virtual(scene)

    parameters = [one for name, one in signature.parameters.items() if name != "serve"]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    del run.__wrapped__  # type: ignore[attr-defined]
    return run
