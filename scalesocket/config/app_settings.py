"""The `[apps.NAME]` and `[defaults]` tables: each key with its type, default, meaning, and what an edit to it does.

`App` is one class, because its keys share one namespace in the file; the tables within it are classes of their own.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from scalesocket.config.addresses import Ports, Target
from scalesocket.config.auth_settings import Auth
from scalesocket.config.conflicts import find_conflicts
from scalesocket.config.headers import Headers, Origins, Subprotocols
from scalesocket.config.keys import Key, Reload, Table, live_key, next_key
from scalesocket.config.rates import Rate, RoomRate
from scalesocket.config.routing import JSON_JOIN, JSON_LEAVE, Routes, Routing, default_join_message, default_leave_message
from scalesocket.config.units import AnyDuration, MiB, PositiveDuration, PositiveSize
from scalesocket.config.values import (
    AbsolutePath,
    AppName,
    Argv,
    ClientKeys,
    Count,
    Delimiter,
    Env,
    Flag,
    Names,
    Pattern,
    Signal,
)


class Limits(Table):
    """Resource limits of a child process (setrlimit), and of all processes of a program where it has a control group."""

    memory: Annotated[
        PositiveSize | None,
        next_key("Address space of a process; in a [control group](spawner.md#control-groups) also the memory of the program"),
    ] = None
    cpu: Annotated[PositiveDuration | None, next_key("CPU time of a process")] = None
    open_files: Annotated[Count | None, next_key("Open file descriptors of a process")] = None
    processes: Annotated[
        Count | None,
        next_key(
            "Processes of the user, which Linux counts for users other than root. In a "
            "[control group](spawner.md#control-groups) also processes and threads of the program"
        ),
    ] = None


class History(Table):
    """The messages that are replayed to new clients."""

    size: Annotated[Count, next_key("Number of messages kept")] = 64
    keep: Annotated[
        Literal["all", "tagged"],
        next_key('`"all"` keeps every message that was sent to everyone, `"tagged"` only those with `_cache: true`'),
    ] = "all"
    persist: Annotated[Flag, next_key("Keep the history in memory after the room has ended")] = False
    max_bytes: Annotated[PositiveSize, next_key("Bytes kept. The oldest messages are dropped first")] = 4 * MiB


def _default_mount(app: dict[str, Any]) -> str:
    return f"/{app['name']}"


class App(Table):
    """An `[apps.NAME]` table, with what it inherited from `[defaults]`."""

    name: Annotated[AppName, Key(meaning="The name of the table", reload=Reload.NEXT, is_in_file=False)]
    mount: Annotated[
        str, next_key('`"/"` serves the app at the root, with its rooms at `/ROOM`. One app can be there', default="`/NAME`")
    ] = Field(default_factory=_default_mount)
    command: Annotated[
        Argv | None,
        next_key("Program that each room runs: a list of words, or a string that is split as a shell would. No shell runs"),
    ] = None
    port: Annotated[
        Ports | None,
        next_key(
            "With `command`: connect to the program over TCP instead of standard input and output. "
            '`"auto"` picks any free port, `"9001-9999"` one of a range. The program gets it as the variable `PORT`'
        ),
    ] = None
    tcp: Annotated[
        Target | None, next_key("Instead of `command`: address `host:port` to connect to, with one connection per room")
    ] = None
    unix: Annotated[
        AbsolutePath | None, next_key("Instead of `command`: Unix socket to connect to, with one connection per room")
    ] = None
    start_timeout: Annotated[
        PositiveDuration,
        next_key("Time for the program to listen on its port, or for the target to accept. A target that refuses is not retried"),
    ] = 10.0
    start_delay: Annotated[
        AnyDuration, next_key("Minimum time between the start of the program and its first use", in_file=False)
    ] = 0.0
    cwd: Annotated[AbsolutePath, next_key("Working directory of the program", default="the file's folder")] = Field(
        default_factory=Path.cwd
    )
    env: Annotated[
        Env,
        next_key(
            "Environment variables of the program, in addition to the CGI variables, `APP`, `ROOM` and `PYTHONUNBUFFERED=1`, "
            "which can be replaced. Merged with those of `[defaults]`, key by key. `show` and `diff` mask variables whose names "
            "suggest a password, token or key, and passwords and queries in URLs"
        ),
    ] = Field(default={})
    pass_env: Annotated[Names, next_key("Names of the server's own variables that the program gets. It gets no others")] = (
        "PATH",
        "LANG",
        "HOME",
    )
    user: Annotated[
        str | None, next_key("User to run the program as. A server that does not run as root can only use its own")
    ] = None
    group: Annotated[
        str | None,
        next_key("Group to run the program as. A server that does not run as root can only use its own", default="the user's"),
    ] = None
    limits: Annotated[Limits | None, next_key("Resource limits of the program")] = None
    routing: Annotated[
        Routes,
        next_key(
            'How messages are passed on: `"broadcast"`, `"json"`, `"gwsocket"`, or one of them per direction, '
            "`{ client = …, server = … }`"
        ),
    ] = Routes()
    byte_order: Annotated[Literal["little", "big"], next_key("Byte order of gwsocket headers")] = "little"
    binary: Annotated[
        Flag, next_key("Pass bytes on as they are: output is not split into records, and is sent in binary messages")
    ] = False
    delimiter: Annotated[
        Delimiter | None,
        next_key(
            'Characters that end a record; any one of them does. `"\\u0000"` stands for NUL. With gwsocket the header gives '
            "the length; if this key is set, one such character is expected after each payload",
            default='`"\\n"`; with gwsocket none',
        ),
    ] = None
    input_end: Annotated[
        str | None, next_key("End of a record that is written to the backend, if it is not the delimiter", in_file=False)
    ] = None
    auth: Annotated[Auth | None, live_key("Who may connect. Edits apply to new clients", default="everyone")] = None
    join_message: Annotated[
        str | None,
        live_key(
            'Template of a record that is written to the backend when a client joins; `""` for none. In JSON, put quotes around '
            'a placeholder that stands for text, as in `"name":"#QUERY_NAME"`; without quotes, a name such as `1e5` is a number',
            default=f"`{JSON_JOIN}` with json, with `auth` also `user` and `roles`; otherwise none",
        ),
    ] = Field(default_factory=default_join_message)
    leave_message: Annotated[
        str | None,
        live_key(
            'Template of a record that is written to the backend when a client leaves; `""` for none',
            default=f"`{JSON_LEAVE}` with json, otherwise none",
        ),
    ] = Field(default_factory=default_leave_message)
    client_keys: Annotated[
        ClientKeys,
        next_key(
            "With json: which of these keys a client's own message may carry. The others are removed before the program reads "
            "the message. A program that repeats its input, as `cat` does, lets every client use the keys that are listed"
        ),
    ] = ()
    history: Annotated[History | None, next_key("Messages that are replayed to a client when it joins")] = None
    max_record: Annotated[
        PositiveSize, next_key("Longest record or payload from the backend. A longer one ends the room with 1011")
    ] = 16 * MiB
    rooms: Annotated[Names | None, live_key("Names of the rooms that can be joined. Others get 404", default="any")] = None
    room_pattern: Annotated[Pattern, live_key("Regular expression for the whole decoded name of a room. Other names get 400")] = (
        r"[\w.~-]{1,128}"
    )
    max_rooms: Annotated[Count | None, live_key("Rooms of the app at a time. Clients of further rooms are closed with 1013")] = (
        1000
    )
    room_rate: Annotated[
        RoomRate | None, live_key("Rooms opened per second. A client that would open a further one is closed with 1013")
    ] = None
    max_clients: Annotated[Count | None, live_key("Clients of one room at a time. Further ones are closed with 1013")] = None
    max_connections: Annotated[Count | None, live_key("Clients of the app at a time. Further ones are closed with 1013")] = None
    idle_timeout: Annotated[AnyDuration, live_key("Time for which a room without clients keeps its backend")] = 0.0
    client_idle_timeout: Annotated[
        PositiveDuration | None, live_key("Close a client that has sent nothing for this time with 1008")
    ] = None
    max_lifetime: Annotated[PositiveDuration | None, live_key("End a room at this age")] = None
    ping_interval: Annotated[PositiveDuration, live_key("Time between keepalive pings")] = 25.0
    ping_timeout: Annotated[PositiveDuration, live_key("Close a client that has not answered a ping for this time with 1008")] = (
        10.0
    )
    restart: Annotated[
        Literal["never", "on-failure", "always"],
        live_key(
            "When to start a backend again after it has ended. Clients stay connected. The delay grows exponentially, with "
            "jitter; after 5 restarts in 60 s the room ends"
        ),
    ] = "never"
    stop_signal: Annotated[
        Signal, live_key("Signal that is sent to the program's process group after its standard input was closed")
    ] = 15
    stop_timeout: Annotated[AnyDuration, live_key("Time between `stop_signal` and SIGKILL")] = 3.0
    oneshot: Annotated[Flag, next_key("A room takes one client and no second one, which is closed with 1013")] = False
    max_message: Annotated[PositiveSize, live_key("Longest message from a client. A longer one closes the client with 1009")] = (
        1 * MiB
    )
    rate: Annotated[
        Rate | None,
        live_key("What a client may send per second. A client that sends more is slowed down; nothing is dropped"),
    ] = None
    send_buffer: Annotated[PositiveSize, live_key("Unsent bytes that a client may have before `slow_client` applies")] = 1 * MiB
    slow_client: Annotated[
        Literal["close", "block", "drop"],
        live_key(
            'What to do about a client with more than `send_buffer` unsent. `"close"` closes it after the room has waited too '
            'long for it: 1 s in any 10 s, or 250 ms in which it took nothing. `"block"` makes the backend wait. `"drop"` drops '
            "messages to it"
        ),
    ] = "close"
    stall_timeout: Annotated[
        PositiveDuration,
        live_key("End a room whose backend takes no input for this time. Also the longest that `block` waits for a client"),
    ] = 10.0
    compression: Annotated[Flag, live_key("Offer permessage-deflate to new clients")] = False
    origins: Annotated[
        Origins | None,
        live_key(
            '`Origin` values that may connect; `["*"]` for any. Clients without `Origin` are not browsers and may connect',
            default="same origin",
        ),
    ] = None
    subprotocols: Annotated[
        Subprotocols,
        live_key(
            "Names to agree on in `Sec-WebSocket-Protocol`. The first name that the client offers and the list has is chosen; "
            '`["*"]` chooses the client\'s first'
        ),
    ] = ()
    listed: Annotated[
        Flag,
        live_key(
            "Show the rooms in the public API, on the front page, and by name in public metrics. The admin API and `status` "
            "always do"
        ),
    ] = True
    static: Annotated[
        AbsolutePath | None, live_key("Folder that is served at `/NAME/`. Without a target, the app has no rooms")
    ] = None
    static_headers: Annotated[
        Headers,
        live_key('Response headers of the static files, such as `{ Cross-Origin-Opener-Policy = "same-origin" }`'),
    ] = Field(default={})

    @property
    def has_rooms(self) -> bool:
        """Whether the app has a target. Without one it serves static files alone."""
        return self.command is not None or self.tcp is not None or self.unix is not None

    @property
    def takes_binary(self) -> bool:
        """Whether binary messages of clients reach the backend as binary. Otherwise they must be UTF-8 and count as text."""
        return self.binary or self.routing.client is Routing.GWSOCKET

    @field_validator("join_message", "leave_message")
    @classmethod
    def _empty_is_none(cls, message: str | None) -> str | None:
        return message or None

    @model_validator(mode="after")
    def _has_no_conflicts(self, info: ValidationInfo) -> "App":
        if info.context is None:  # in a file, the parser reports all conflicts, each at its key
            present = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
            for conflict in find_conflicts(self.name, present):
                raise ValueError(": ".join((*map(str, conflict.path), conflict.message)))
        return self
