"""Clients that claim another address or scheme: with forwarding headers, and with the PROXY protocol."""

import asyncio
import struct
import sys
from typing import Final

from scalesocket.config.model import Server
from tests.attacks.tries import Try, run, status_of
from tests.playing import Lane, Playground, open_playground, site_of
from tests.raw import DEADLINE, PING, RawClient, upgrade

WHO: Final = {"command": ["sh", "-c", 'echo "$REMOTE_ADDR $HTTPS"; exec cat']}
OWN: Final = "127.0.0.1 "
"""The client's own address, without TLS."""
CLIENT, VICTIM = "198.51.100.7", "203.0.113.9"
"""The real client of a trusted proxy, and the address that it claims."""
PROXY: Final = f"PROXY TCP4 {CLIENT} 192.0.2.9 4711 80\r\n".encode()
BINARY: Final = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + struct.pack("!H4s4sHH", 12, bytes((203, 0, 113, 9)), bytes(4), 4711, 80)

FROM_ANYONE: Final[dict[str, tuple[str, ...]]] = {
    "X-Forwarded-For": (f"X-Forwarded-For: {VICTIM}",),
    "X-Forwarded-For, with a trusted proxy in it": (f"X-Forwarded-For: {VICTIM}, 192.0.2.1",),
    "Forwarded": (f"Forwarded: for={VICTIM};proto=https",),
    "X-Real-IP": (f"X-Real-IP: {VICTIM}",),
    "X_Forwarded_For": (f"X_Forwarded_For: {VICTIM}",),
    "X-Forwarded-Proto": ("X-Forwarded-Proto: https",),
}
"""Headers of a client that is no trusted proxy: all are ignored."""
THROUGH_A_PROXY: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "the client's own X-Forwarded-For before the proxy's": ((f"X-Forwarded-For: {VICTIM}, {CLIENT}",), f"{CLIENT} "),
    "the same as two headers": ((f"X-Forwarded-For: {VICTIM}", f"X-Forwarded-For: {CLIENT}"), f"{CLIENT} "),
    "a claim that the client is a proxy": ((f"X-Forwarded-For: {VICTIM}, 127.0.0.1, {CLIENT}",), f"{CLIENT} "),
    "Forwarded beside the proxy's X-Forwarded-For": ((f"Forwarded: for={VICTIM}", f"X-Forwarded-For: {CLIENT}"), OWN),
    "Forwarded that is malformed": (('Forwarded: for="', f"X-Forwarded-For: {CLIENT}"), OWN),
    "X_Forwarded_For": ((f"X_Forwarded_For: {VICTIM}", f"X-Forwarded-For: {CLIENT}"), f"{CLIENT} "),
    "X-Real-IP": ((f"X-Real-IP: {VICTIM}", f"X-Forwarded-For: {CLIENT}"), f"{CLIENT} "),
    "https, which the proxy did not use": (
        ("X-Forwarded-Proto: https, http", f"X-Forwarded-For: {VICTIM}, {CLIENT}"),
        f"{CLIENT} ",
    ),
}
"""Headers that a trusted proxy passes on, and the address and scheme that are believed."""
BEFORE_THE_HEAD: Final[dict[str, tuple[bytes, tuple[str, ...], str]]] = {
    "X-Forwarded-For behind a PROXY header": (PROXY, (f"X-Forwarded-For: {VICTIM}",), f"{CLIENT} "),
    "a second PROXY header": (PROXY + PROXY.replace(CLIENT.encode(), VICTIM.encode()), (), "400"),
    "a second PROXY header, binary": (PROXY + BINARY, (), "400"),
    "a PROXY header in the middle of the head": (b"GET / HTTP/1.1\r\n" + PROXY, (), "400"),
}


async def attack() -> list[Try]:
    """Try both lanes, from a trusted address and from another one."""
    tries = []
    for lane in ("express", "general"):
        tries += await attack_lane(lane)
    return tries


async def attack_lane(lane: Lane) -> list[Try]:
    tries = []
    async with open_playground(site_of({"who": WHO}, trusting("192.0.2.0/24")), lane) as site:
        for name, fields in FROM_ANYONE.items():
            tries.append(Try(f"{lane}, untrusted: {name}", OWN, await claim(site, b"", fields)))
        if lane == "express":  # a connection on the general lane has had its first head
            for name, header in (("PROXY", PROXY), ("PROXY, binary", BINARY)):
                tries.append(Try(f"{lane}, untrusted: {name}", "400", await claim(site, header, ())))
    async with open_playground(site_of({"who": WHO}, trusting("127.0.0.1/32")), lane) as site:
        for name, (fields, expected) in THROUGH_A_PROXY.items():
            tries.append(Try(f"{lane}, through a proxy: {name}", expected, await claim(site, b"", fields)))
        if lane == "express":
            for name, (header, fields, expected) in BEFORE_THE_HEAD.items():
                tries.append(Try(f"{lane}, through a proxy: {name}", expected, await claim(site, header, fields)))
    return tries


def trusting(network: str) -> Server:
    return Server.model_validate({"bind": "127.0.0.1:0", "trusted_proxies": [network]})


async def claim(site: Playground, header: bytes, fields: tuple[str, ...]) -> str:
    """Join a new room; return the address without its port and the scheme that its program got, or the status."""
    async with await RawClient.connect(await site.connect()) as client:
        client.send(header + upgrade(f"/who/{id(client)}", *fields))
        async with asyncio.timeout(DEADLINE):
            try:
                head = await client.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return "cut"
        if (status := status_of(head)) != "101":
            return status
        while (frame := await client.read_frame()).opcode == PING:
            pass
        address, _, scheme = frame.payload.decode().partition(" ")
        return f"{address.rpartition(':')[0]} {scheme}"


if __name__ == "__main__":
    sys.exit(run("Another client's address", attack))
