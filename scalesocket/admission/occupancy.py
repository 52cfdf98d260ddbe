"""The clients that are in rooms, counted against the limits of the server: `max_connections`, `max_connections_per_ip`."""

from collections import Counter
from typing import Final

from scalesocket.admission.rechecks import Rechecks
from scalesocket.admission.refusals import TOO_MANY_FROM_ADDRESS
from scalesocket.capacity.capacity import Capacity
from scalesocket.config.model import Server
from scalesocket.edge.client import Client
from scalesocket.errors import ADDRESS_FULL, SERVER_FULL, Close
from scalesocket.rooms.pool import RoomPool

FULL: Final = "server_full"
"""The label of refusals in metrics."""


class Occupancy:
    """Counts clients from the moment they enter a room until they leave it."""

    def __init__(self, server: Server, capacity: Capacity, rechecks: Rechecks, refusals: Counter[str]) -> None:
        """Count against the limits of `server`. Clients of hooks are added to `rechecks`; `refusals` counts refused ones."""
        self.server = server
        """The settings in force."""
        self.places = capacity.connections
        self.addresses = capacity.addresses
        self._rechecks = rechecks
        self._refusals = refusals

    @property
    def connections(self) -> int:
        """Clients in rooms of this process."""
        return self.places.own

    def refuse(self) -> Close:
        """Count a client that the server has no place for; return how to close it."""
        self._refusals[FULL] += 1
        return SERVER_FULL

    def refuse_address(self, pool: RoomPool) -> Close:
        """Count a client of an address with too many; return how to close it."""
        pool.refusals[TOO_MANY_FROM_ADDRESS.reason] += 1
        return ADDRESS_FULL

    def enter(self, pool: RoomPool, client: Client) -> Close | None:
        """Count a client that enters a room. Return how to close it if other processes have taken the last places meanwhile.

        Called by the pools. If the room does not admit the client, `leave` follows.
        """
        server = self.server
        if not self.places.take(server.max_connections):
            return self.refuse()
        if not self.addresses.take(client.peer, server.max_connections_per_ip):
            self.places.release()
            return self.refuse_address(pool)
        if client.identity is not None:
            self._rechecks.add(client)
        return None

    def leave(self, client: Client) -> None:
        """Uncount a client that left its room. Called by the pools."""
        self.places.release()
        self.addresses.release(client.peer)
        if client.identity is not None:
            self._rechecks.remove(client)
