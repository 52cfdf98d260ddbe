"""A small HTTP/2 client that can open websockets (RFC 8441), on the h2 and wsproto libraries."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import h2.settings
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, TextMessage

from tests.playing import DEADLINE

Status = tuple[int, dict[str, str]]


class Stream:
    """One request on the connection."""

    def __init__(self, client: "Http2Client", number: int) -> None:
        self.client = client
        self.number = number
        self.status: asyncio.Future[Status] = asyncio.get_running_loop().create_future()
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        """Parts of the body; empty bytes at the end."""

    async def wait_status(self) -> Status:
        async with asyncio.timeout(DEADLINE):
            return await asyncio.shield(self.status)

    async def read_chunk(self) -> bytes:
        """The next part of the body, empty at its end."""
        async with asyncio.timeout(DEADLINE):
            chunk = await self.chunks.get()
        if not chunk:
            self.chunks.put_nowait(b"")
        return chunk

    async def read_body(self) -> bytes:
        body = b""
        while chunk := await self.read_chunk():
            body += chunk
        return body


class Http2Websocket:
    """A websocket in a stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.frames = Connection(ConnectionType.CLIENT)
        self.received: list[str | bytes] = []

    async def say(self, message: str | bytes) -> None:
        event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
        await self.stream.client.send(self.stream, self.frames.send(event))

    async def listen(self) -> str | bytes:
        """Return the next message. Raises ConnectionError, with code and reason, after the last one."""
        parts: list[str | bytes] = []
        while True:
            for event in self.frames.events():
                match event:
                    case Message():
                        parts.append(event.data)
                        if event.message_finished:
                            self.received.append(type(parts[0])().join(parts))  # type: ignore[arg-type]
                            parts = []
                    case Ping():
                        await self.stream.client.send(self.stream, self.frames.send(event.response()))
                    case CloseConnection():
                        await self.stream.client.send(self.stream, self.frames.send(event.response()))
                        raise ConnectionError(event.code, event.reason)
            if self.received:
                return self.received.pop(0)
            chunk = await self.stream.read_chunk()
            if not chunk:
                raise ConnectionError("the stream ended")
            self.frames.receive_data(chunk)

    async def wait_closed(self) -> tuple[int, str]:
        """Drop messages until the server closes; return its code and reason."""
        try:
            while True:
                await self.listen()
        except ConnectionError as error:
            return error.args[0], error.args[1]

    def reset(self) -> None:
        """Reset the stream."""
        self.stream.client.connection.reset_stream(self.stream.number)
        self.stream.client.flush()


class Http2Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.reader = reader
        self.writer = writer
        self.streams: dict[int, Stream] = {}
        self.settings = asyncio.Event()
        self.server_settings: dict[int, int] = {}
        """The settings that the server has sent."""
        self.window = asyncio.Event()
        self.connection.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.connection.data_to_send())

    def start(
        self, method: str, path: str, *headers: tuple[str, str], is_ended: bool = True, authority: str = "localhost"
    ) -> Stream:
        number = self.connection.get_next_available_stream_id()
        stream = self.streams[number] = Stream(self, number)
        scheme = "https" if self.writer.get_extra_info("ssl_object") else "http"
        pseudo = [(":method", method), (":scheme", scheme), (":path", path), (":authority", authority)]
        self.connection.send_headers(number, [*pseudo, *headers], end_stream=is_ended)
        self.flush()
        return stream

    async def get(self, path: str, *headers: tuple[str, str], authority: str = "localhost") -> tuple[Status, bytes]:
        stream = self.start("GET", path, *headers, authority=authority)
        return await stream.wait_status(), await stream.read_body()

    async def open_websocket(
        self, path: str, *headers: tuple[str, str], authority: str = "localhost"
    ) -> tuple[Status, Http2Websocket]:
        """Ask for a websocket; its status is 200 when it is one."""
        async with asyncio.timeout(DEADLINE):
            await self.settings.wait()
        assert self.connection.remote_settings[h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL] == 1
        extended = ((":protocol", "websocket"), ("sec-websocket-version", "13"), *headers)
        stream = self.start("CONNECT", path, *extended, is_ended=False, authority=authority)
        return await stream.wait_status(), Http2Websocket(stream)

    async def join(self, path: str) -> Http2Websocket:
        (status, _), websocket = await self.open_websocket(path)
        assert status == 200
        return websocket

    async def send(self, stream: Stream, data: bytes) -> None:
        async with asyncio.timeout(DEADLINE):
            while data:
                size = min(
                    len(data),
                    self.connection.local_flow_control_window(stream.number),
                    self.connection.max_outbound_frame_size,
                )
                if not size:
                    self.window.clear()
                    await self.window.wait()
                    continue
                self.connection.send_data(stream.number, data[:size])
                data = data[size:]
                self.flush()

    async def run(self) -> None:
        """Read until the server closes."""
        while data := await self.reader.read(65536):
            for event in self.connection.receive_data(data):
                self.take(event)
            self.flush()
        for stream in self.streams.values():
            self.end(stream)

    def take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RemoteSettingsChanged():
                self.server_settings |= {int(code): changed.new_value for code, changed in event.changed_settings.items()}
                self.settings.set()
            case h2.events.WindowUpdated():
                self.window.set()
            case h2.events.ResponseReceived():
                headers = dict(event.headers)
                self.streams[event.stream_id].status.set_result((int(headers.pop(":status")), headers))
            case h2.events.DataReceived():
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if event.data:
                    self.streams[event.stream_id].chunks.put_nowait(event.data)
            case h2.events.StreamEnded() | h2.events.StreamReset():
                self.end(self.streams[event.stream_id])

    def end(self, stream: Stream) -> None:
        stream.chunks.put_nowait(b"")
        if not stream.status.done():
            stream.status.set_exception(ConnectionError("the stream ended without an answer"))
            stream.status.exception()  # so that it is not reported if nobody awaits it


@asynccontextmanager
async def open_http2(port: int, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Http2Client]:
    """Connect, by prior knowledge or by ALPN."""
    host = "localhost" if tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=host)
    client = Http2Client(reader, writer)
    reading = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        writer.close()
        reading.cancel()
        await asyncio.wait([reading])
