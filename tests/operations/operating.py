"""Carries out operations on a site in memory."""

from typing import Any, Final

from scalesocket.control.messages import Caller, Request
from scalesocket.operations.running import Running
from scalesocket.operations.table import Operations
from tests.rooms.acting import MemorySite

CALLER: Final = Caller(via="control socket", name="uid 0, pid 1")


async def run(site: MemorySite, request: Request) -> Any:
    """Carry out an operation, as its interfaces do."""
    return await Operations(Running(site.gateway)).run(request, CALLER)
