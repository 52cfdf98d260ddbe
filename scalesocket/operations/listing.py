"""Lists of rooms and of clients."""

import asyncio
from typing import Final

import msgspec

from scalesocket.control.lists import ClientEntry, ClientList, RoomEntry, RoomList
from scalesocket.control.messages import Clients, Rooms
from scalesocket.edge.client import Client
from scalesocket.operations.lookup import find_rooms
from scalesocket.operations.running import Running
from scalesocket.rooms.room import Room

ENTRIES_PER_SLICE: Final = 200
"""Entries made in one event-loop iteration: half a millisecond."""


async def list_rooms(running: Running, request: Rooms) -> RoomList:
    """Return the rooms that have not ended, stopping ones included."""
    entries, node = [], _name_node(running)
    for pool, room in find_rooms(running.gateway, request.app, request.room):
        entries.append(_describe_room(pool.app.name, room, node))
        if len(entries) % ENTRIES_PER_SLICE == 0:
            await asyncio.sleep(0)
    return RoomList(rooms=tuple(entries))


async def list_clients(running: Running, request: Clients) -> ClientList:
    """Return the clients of these rooms, in the order they joined."""
    now = asyncio.get_running_loop().time()
    entries, node = [], _name_node(running)
    for pool, room in find_rooms(running.gateway, request.app, request.room):
        for client in tuple(pool.clients_of(room).values()):
            entries.append(_describe_client(pool.app.name, room.name, node, client, now))
            if len(entries) % ENTRIES_PER_SLICE == 0:
                await asyncio.sleep(0)
    return ClientList(clients=tuple(entries))


def _name_node(running: Running) -> str | msgspec.UnsetType:
    return msgspec.UNSET if running.cluster is None else running.cluster.node


def _describe_room(app: str, room: Room, node: str | msgspec.UnsetType) -> RoomEntry:
    status = room.status()
    return RoomEntry(
        app=app,
        room=room.name,
        node=node,
        state=status.state,
        clients=status.connections,
        pid=status.pid,
        messages_in=status.counts.messages_in,
        messages_out=status.counts.messages_out,
        messages_dropped=status.counts.messages_dropped,
    )


def _describe_client(app: str, room: str, node: str | msgspec.UnsetType, client: Client, now: float) -> ClientEntry:
    identity = client.identity
    return ClientEntry(
        app=app,
        room=room,
        node=node,
        id=client.id,
        user=None if identity is None else identity.user,
        roles=() if identity is None else identity.role_names,
        address=client.remote,
        idle=round(max(0.0, now - client.last_message_at), 3),
        unsent=client.unsent,
    )
