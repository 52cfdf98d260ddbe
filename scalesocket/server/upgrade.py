"""Answering an upgrade: completing the handshake, with the first bytes of the websocket, or refusing it."""

import asyncio
from http import HTTPStatus

from scalesocket.admission.control import Admission
from scalesocket.admission.refusals import Refusal
from scalesocket.errors import Close
from scalesocket.server.closing import LingeringClose
from scalesocket.server.connections import Connections
from scalesocket.server.express import ExpressClient
from scalesocket.server.security_headers import OWN_LINES
from scalesocket.wire.deflate import answer_offers
from scalesocket.wire.frames import Opcode, encode_frame
from scalesocket.wire.handshake import accept_key


def complete_upgrade(
    transport: asyncio.Transport,
    connections: Connections,
    admission: Admission,
    key: str,
    rest: bytes,
    make_client: type[ExpressClient] = ExpressClient,
) -> None:
    """Complete the handshake, and let the client join its room. `rest`: the bytes that were read after the head."""
    response, window = answer_upgrade(admission, key)
    transport.write(response)
    start_websocket(transport, connections, admission, rest, window=window, make_client=make_client)


def answer_upgrade(admission: Admission, key: str) -> tuple[bytes, int]:
    """Return the response 101, and the window of permessage-deflate on which it agrees, in bits; 0 without."""
    offers = admission.request.headers.get("sec-websocket-extensions", "")
    deflation = answer_offers(offers) if admission.app.compression else None
    agreed = f"Sec-WebSocket-Extensions: {deflation.response}\r\n" if deflation else ""
    if admission.subprotocol is not None:
        agreed += f"Sec-WebSocket-Protocol: {admission.subprotocol}\r\n"
    return make_switch(key, agreed), deflation.window if deflation else 0


def start_websocket(
    transport: asyncio.Transport,
    connections: Connections,
    admission: Admission,
    rest: bytes,
    *,
    window: int,
    make_client: type[ExpressClient] = ExpressClient,
) -> None:
    """Let a client join its room after the handshake. `window`: of permessage-deflate, in bits; 0 without."""
    client = make_client(transport, admission, window=window, on_lost=connections.forget_websocket, loop=connections.loop)
    transport.set_protocol(client)  # before the history is sent, which may fill the buffer
    refusal = admission.join(client)
    if refusal is not None:
        close_websocket(transport, connections, refusal)
        return
    connections.websockets += 1
    if rest:
        client.start_with(rest)


def make_switch(key: str, agreed: str = "") -> bytes:
    """Return the response 101. `agreed`: its lines about what was negotiated."""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_key(key) + b"\r\n" + agreed.encode() + b"\r\n"
    )


def close_websocket(transport: asyncio.Transport, connections: Connections, close: Close) -> None:
    """Write a close frame on a websocket that joins no room, and end its connection."""
    transport.write(encode_frame(close.payload(), Opcode.CLOSE))
    LingeringClose(transport, connections)


def refuse_upgrade(transport: asyncio.Transport, connections: Connections, refusal: Refusal) -> None:
    """Write the response of a refusal that was counted, and end the connection."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in refusal.fields)
    respond(transport, connections, refusal.status, refusal.message, extra=extra)


def respond(transport: asyncio.Transport, connections: Connections, status: int, message: str, *, extra: str = "") -> None:
    """Write a complete response and end the connection. `extra`: lines of its head."""
    body = f"{message}\n".encode()
    transport.write(
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n{OWN_LINES}{extra}\r\n".encode()
        + body
    )
    LingeringClose(transport, connections)
