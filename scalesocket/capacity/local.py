"""The capacity of a server of one process."""

import itertools

from scalesocket.auth.failures import FailureTable
from scalesocket.auth.turns import LocalDeciding
from scalesocket.backends.ports import LocalPorts
from scalesocket.capacity.address_limits import AddressLimits
from scalesocket.capacity.opening_rate import OpeningRate
from scalesocket.capacity.places import LocalPlaces


class LocalAppCapacity:
    """What is counted of one app (`capacity.AppCapacity`)."""

    def __init__(self) -> None:
        """Start with everything free."""
        self.connections = LocalPlaces()
        self.rooms = LocalPlaces()
        self.openings = OpeningRate()

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""


class LocalCapacity:
    """All of it (`capacity.Capacity`)."""

    workers = 1

    def __init__(self) -> None:
        """Start with everything free."""
        self.connections = LocalPlaces()
        self.addresses = AddressLimits()
        self.client_ids = itertools.count(1)
        self.ports = LocalPorts()

    def open_app(self, name: str) -> LocalAppCapacity:
        """Start to count what an app has."""
        return LocalAppCapacity()

    def failed(self, app: str) -> FailureTable:
        """Start to count failed attempts."""
        return FailureTable()

    def deciding(self, app: str) -> LocalDeciding:
        """Start to count attempts that are being decided."""
        return LocalDeciding()
