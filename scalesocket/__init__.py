"""Turn any program into a multiplayer websocket server, and host many of them on one endpoint."""

from typing import Final

__version__: Final = "0.1.0"
