"""A small HTTP server for tests, which answers as the test says and keeps what it was asked."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Answering = Callable[["Asked"], bytes | None]
"""Returns the bytes of the response; None for silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Web:
    """The server. `answer` may be replaced at any time."""

    url: str
    answer: Answering
    asked: list[Asked] = field(default_factory=list)
    open: int = 0
    """Connections."""
    most_at_once: int = 0
    """Requests without a response, at most."""
    unanswered: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_closed(self) -> None:
        """Wait until no connection is open."""
        while self.open:
            self.news.clear()
            await self.news.wait()

    async def wait_asked(self, times: int = 1) -> None:
        """Wait until there were so many requests."""
        async with asyncio.timeout(10):
            while len(self.asked) < times:
                self.news.clear()
                await self.news.wait()


def respond(body: Any = b"", *, status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    """Make a response: bytes as they are, anything else in JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Length": str(len(content)), **(headers or {})}
    head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return head.encode() + b"\r\n" + content


@asynccontextmanager
async def open_web(answer: Answering) -> AsyncIterator[Web]:
    """Serve on a free port until the block ends."""
    web = Web("", answer)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        web.open += 1
        try:
            while True:
                await serve_one(web, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            web.open -= 1
            web.news.set()
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    web.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        yield web
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()


async def serve_one(web: Web, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read one request and answer it."""
    line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, path, _ = line.split(" ")
    asked = Asked(method=method, path=path, headers=headers, body=body)
    web.asked.append(asked)
    web.news.set()
    web.unanswered += 1
    web.most_at_once = max(web.most_at_once, web.unanswered)
    try:
        response = web.answer(asked)
        if response is None:
            await reader.read(1)  # until the client gives up
            raise ConnectionError
        writer.write(response)
        await writer.drain()
    finally:
        web.unanswered -= 1
