"""The environment of backends: what the site file sets, and CGI variables of the request that opened the room."""

import os
from collections.abc import Mapping
from typing import Final

from scalesocket import __version__
from scalesocket.config.model import App
from scalesocket.wire.cgi import base_environment, environment
from scalesocket.wire.handshake import Request

SOFTWARE: Final = f"scalesocket/{__version__}"
"""The value of SERVER_SOFTWARE."""


class EnvironmentBuilder:
    """Builds the environments of one app's backends."""

    __slots__ = ("_app", "_base")

    def __init__(self) -> None:
        self._app: App | None = None
        self._base: Mapping[str, str] = {}
        """The variables that all rooms of the app share, which are looked up once for each edit."""

    def build(self, app: App, room: str, request: Request) -> dict[str, str]:
        """Return the whole environment of a room's backend. `request`: that of the room's first client."""
        if app is not self._app:
            self._app, self._base = app, base_environment(app.env, app.pass_env, os.environ)
        script_name = "" if app.mount == "/" else app.mount
        cgi = environment(request, app=app.name, room=room, script_name=script_name, path_info=f"/{room}", software=SOFTWARE)
        return {**self._base, **cgi}
