"""The site as frozen data: every key with its type, default, meaning, and what an edit to it does.

The schema, `docs/config.md` and the reload plan are made from these declarations. Durations are seconds, sizes bytes and
paths absolute, whatever they were written as.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from scalesocket.config.conflicts import find_conflicts
from scalesocket.config.headers import Headers
from scalesocket.config.keys import Key, Reload, following, listener, live
from scalesocket.config.units import Duration, KiB, MiB, Size
from scalesocket.config.values import (
    AbsolutePath,
    Amount,
    AppName,
    Argv,
    Binds,
    ClientKeys,
    Control,
    Count,
    Delimiter,
    Endpoint,
    Env,
    Flag,
    Hosts,
    Names,
    Networks,
    Origins,
    Pattern,
    PortRange,
    Ports,
    Signal,
    Subprotocols,
    Target,
)

__all__ = [
    "App",
    "ConnectRate",
    "Endpoint",
    "History",
    "KiB",
    "Limits",
    "Log",
    "MiB",
    "PortRange",
    "Rate",
    "Routes",
    "Routing",
    "Server",
    "Site",
    "Tls",
]

JSON_JOIN: Final = '{"t":"Join","_from":#ID,"_event":"join"}'
"""The default join message with `routing = "json"`. `_event` is what no client's message can have; `t` is not."""
JSON_LEAVE: Final = '{"t":"Leave","_from":#ID,"_event":"leave"}'

POSITIVE: Final = Field(gt=0, allow_inf_nan=False)
NOT_NEGATIVE: Final = Field(ge=0, allow_inf_nan=False)

PositiveDuration = Annotated[Duration, POSITIVE]
AnyDuration = Annotated[Duration, NOT_NEGATIVE]
PositiveSize = Annotated[Size, Field(gt=0)]


class Table(BaseModel):
    """A table of the site file: frozen, and strict about what it may hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Tls(Table):
    """The certificate and the key of the listeners."""

    certificate: Annotated[AbsolutePath, live("PEM file with the certificate, followed by its chain")]
    key: Annotated[AbsolutePath, live("PEM file with the private key; a warning if others may read it", secret=True)]


class Log(Table):
    """What the server says of itself, on standard error."""

    format: Annotated[Literal["text", "json"], live("lines for people, or one JSON object a line")] = "text"
    level: Annotated[Literal["debug", "info", "warning", "error"], live("the least important event that is written")] = "info"


class ConnectRate(Table):
    """How many upgrades one address may ask for in a second; more are refused with 429."""

    per_ip: Annotated[Amount, live("upgrades a second from one address; IPv6 counts by /64")]
    burst: Annotated[Count | None, live("upgrades at once before the rate counts", default="one second's")] = None

    @property
    def size(self) -> float:
        """Upgrades at once, at least one."""
        return float(self.burst or max(1.0, self.per_ip))


class Server(Table):
    """The `[server]` table."""

    bind: Annotated[
        Binds,
        listener(
            "one or a list of `host:port`, `[v6]:port`, `unix:path`, `fd://N` (port 0: any free port, printed and logged); "
            "a name means all its addresses, and `[::]` IPv4 as well, unless the list names IPv4 on that port"
        ),
    ] = ("127.0.0.1:9000",)
    tls: Annotated[Tls | None, live("certificate and key; the files are watched, new connections use the new pair")] = None
    metrics: Annotated[Flag, live("serve `/metrics`")] = True
    api: Annotated[Flag, live("serve the rooms API")] = True
    metrics_rooms: Annotated[Flag, live("label series by room as well as by app (bounded by the rooms that are open)")] = False
    control: Annotated[
        Control,
        listener('unix socket (mode 0600) for `reload`, `diff`, `status`: `"auto"`, a path, or `"off"`'),
    ] = "auto"
    trusted_proxies: Annotated[
        Networks,
        live("networks whose `Forwarded`, `X-Forwarded-For`, `X-Forwarded-Proto` and PROXY protocol are believed"),
    ] = ()
    hosts: Annotated[
        Hosts | None,
        live(
            "names that `Host` may have, `*.` in front for all below one; a request for another gets 421",
            default="any; a browser must name a loopback host to a loopback listener, unless a proxy forwards it",
        ),
    ] = None
    http2_websockets: Annotated[Flag, live("offer websockets over HTTP/2 (RFC 8441); they take the general lane")] = False
    handshake_timeout: Annotated[PositiveDuration, live("to send a complete request head")] = 10.0
    max_connections: Annotated[Count | None, live("websockets admitted at a time")] = 10_000
    max_connections_per_ip: Annotated[
        Count | None, live("websockets admitted at a time from one address; IPv6 counts by /64")
    ] = None
    connect_rate: Annotated[ConnectRate | None, live("upgrades a second from one address; more get 429 with `Retry-After`")] = (
        None
    )
    drain_timeout: Annotated[
        AnyDuration,
        live("over which shutdown and removal spread their closes, a thousand a second at least; then the rest is closed"),
    ] = 10.0
    log: Annotated[Log, live("format and level of the log")] = Log()


class Routing(StrEnum):
    """How messages find their way between clients and backend."""

    BROADCAST = "broadcast"
    JSON = "json"
    GWSOCKET = "gwsocket"


class Routes(Table):
    """The routing of each direction."""

    client: Annotated[Routing, following("of messages from clients to the backend")] = Routing.BROADCAST
    server: Annotated[Routing, following("of records from the backend to clients")] = Routing.BROADCAST

    @model_validator(mode="before")
    @classmethod
    def _both_alike(cls, value: object) -> object:
        if isinstance(value, str):
            return {"client": value, "server": value}
        if not isinstance(value, dict | Routes):
            raise ValueError(f"unknown value {value} (one of: {', '.join(Routing)})")  # noqa: TRY004 - pydantic takes no TypeError
        return value


class Limits(Table):
    """Resource limits of a child (setrlimit)."""

    memory: Annotated[PositiveSize | None, following("address space of a process")] = None
    cpu: Annotated[PositiveDuration | None, following("processor time of a process")] = None
    open_files: Annotated[Count | None, following("open files of a process")] = None
    processes: Annotated[Count | None, following("processes of the user it runs as")] = None


class History(Table):
    """What a newcomer is replayed."""

    size: Annotated[Count, following("messages kept")] = 64
    keep: Annotated[
        Literal["all", "tagged"],
        following("every message that was for everyone, or those with `_cache: true` alone"),
    ] = "all"
    persist: Annotated[Flag, following("keep it, in memory, after the room has ended")] = False
    max_bytes: Annotated[PositiveSize, following("bytes kept; the oldest messages go first")] = 4 * MiB


class Rate(Table):
    """What one client may send in a second before it is slowed down."""

    messages: Annotated[Amount | None, live("messages a second")] = None
    bytes: Annotated[PositiveSize | None, live("payload bytes a second")] = None
    burst: Annotated[Count | None, live("messages at once before the rate counts", default="one second's")] = None

    @model_validator(mode="after")
    def _limits_something(self) -> "Rate":
        if self.messages is None and self.bytes is None:
            raise ValueError("limits nothing (set messages, bytes, or both)")
        return self


def _default_join(app: dict[str, Any]) -> str | None:
    return JSON_JOIN if _is_json_both_ways(app) else None


def _default_leave(app: dict[str, Any]) -> str | None:
    return JSON_LEAVE if _is_json_both_ways(app) else None


def _is_json_both_ways(app: dict[str, Any]) -> bool:
    return bool(app["routing"] == Routes(client=Routing.JSON, server=Routing.JSON))


def _default_mount(app: dict[str, Any]) -> str:
    return f"/{app['name']}"


class App(Table):
    """An `[apps.NAME]` table, with what it inherited from `[defaults]`."""

    name: Annotated[AppName, Key(meaning="the name of the table", reload=Reload.NEXT, is_in_file=False)]
    mount: Annotated[
        str,
        following('`"/"` serves the app at the root (`/ROOM`) instead', default="`/NAME`"),
    ] = Field(default_factory=_default_mount)
    command: Annotated[
        Argv | None,
        following("the program of a room: list of words, or a string split like a shell would (no shell runs)"),
    ] = None
    port: Annotated[
        Ports | None,
        following('with `command`: connect over TCP instead of stdio; `"auto"` or `"9001-9999"`; the child gets `PORT`'),
    ] = None
    tcp: Annotated[Target | None, following("instead of `command`: connect to this address, one connection a room")] = None
    unix: Annotated[AbsolutePath | None, following("instead of `command`: connect to this socket, one connection a room")] = None
    start_timeout: Annotated[
        PositiveDuration, following("for the port to listen, or the target to accept; a target that refuses is not tried again")
    ] = 10.0
    start_delay: Annotated[
        AnyDuration,
        following("at least this long after the start, before the first attempt to connect", in_file=False),
    ] = 0.0
    cwd: Annotated[AbsolutePath, following("the child's working directory", default="the file's folder")] = Field(
        default_factory=Path.cwd
    )
    env: Annotated[
        Env,
        following(
            "variables of the child, beside the CGI variables, `APP` and `ROOM`, and over `PYTHONUNBUFFERED=1`; merged with "
            "`[defaults]` key by key. `show` and `diff` mask those whose names speak of a password, token or key, and passwords "
            "in URLs"
        ),
    ] = {}
    pass_env: Annotated[Names, following("names of the server's own variables that the child gets; nothing else leaks")] = (
        "PATH",
        "LANG",
        "HOME",
    )
    user: Annotated[str | None, following("run the child as this user")] = None
    group: Annotated[str | None, following("run the child as this group", default="the user's")] = None
    limits: Annotated[Limits | None, following("resource limits of the child")] = None
    routing: Annotated[
        Routes,
        following('`"broadcast"`, `"json"`, `"gwsocket"`, or `{ client = …, server = … }`'),
    ] = Routes()
    byte_order: Annotated[Literal["little", "big"], following("of gwsocket headers")] = "little"
    binary: Annotated[Flag, following("binary messages, raw chunks")] = False
    delimiter: Annotated[
        Delimiter | None,
        following(
            'characters, each of which ends a record; `"\\u0000"` for NUL; with gwsocket the header gives the length, and one '
            "such character is expected after each payload",
            default='`"\\n"`; with gwsocket none',
        ),
    ] = None
    input_end: Annotated[
        str | None,
        following("what ends a record written to the backend, where that is not the delimiter", in_file=False),
    ] = None
    join_message: Annotated[
        str | None,
        live(
            'template written to the backend when a client joins; `""` for none. In JSON, put quotes around a placeholder that '
            'is a text: `"name":"#QUERY_NAME"`; without them a name such as `1e5` is a number',
            default=f"`{JSON_JOIN}` with json, else none",
        ),
    ] = Field(default_factory=_default_join)
    leave_message: Annotated[
        str | None,
        live(
            'template written to the backend when a client leaves; `""` for none', default=f"`{JSON_LEAVE}` with json, else none"
        ),
    ] = Field(default_factory=_default_leave)
    client_keys: Annotated[
        ClientKeys,
        following(
            "with json: which of these keys a client's own message may carry; the others are taken out before the program reads "
            "it. A program that repeats what it reads, as `cat` does, lets every client use them"
        ),
    ] = ()
    history: Annotated[History | None, following("what a newcomer is replayed")] = None
    max_record: Annotated[PositiveSize, following("longest record or payload from a backend")] = 16 * MiB
    rooms: Annotated[Names | None, live("the only rooms there are", default="any")] = None
    room_pattern: Annotated[Pattern, live("regular expression for the whole decoded name of a room")] = r"[\w.~-]{1,128}"
    max_rooms: Annotated[Count | None, live("rooms of the app")] = 1000
    max_clients: Annotated[Count | None, live("clients of one room")] = None
    max_connections: Annotated[Count | None, live("clients of the app")] = None
    idle_timeout: Annotated[AnyDuration, live("how long a room without clients keeps its backend")] = 0.0
    client_idle_timeout: Annotated[PositiveDuration | None, live("close a client that sends nothing for so long")] = None
    max_lifetime: Annotated[PositiveDuration | None, live("end a room at this age")] = None
    ping_interval: Annotated[PositiveDuration, live("between keepalive pings")] = 25.0
    ping_timeout: Annotated[PositiveDuration, live("a peer that does not answer a ping for so long is gone")] = 10.0
    restart: Annotated[
        Literal["never", "on-failure", "always"],
        live("start a backend that ended again: jittered exponential backoff, gives up after 5 in 60 s; clients stay"),
    ] = "never"
    stop_signal: Annotated[Signal, live("sent to the process group after standard input was closed")] = 15
    stop_timeout: Annotated[AnyDuration, live("from `stop_signal` to SIGKILL")] = 3.0
    oneshot: Annotated[Flag, following("the room takes one client, once")] = False
    max_message: Annotated[PositiveSize, live("longest message from a client; a longer one closes it with 1009")] = 1 * MiB
    rate: Annotated[Rate | None, live("what a client may send a second; over it the client is slowed down, not dropped")] = None
    send_buffer: Annotated[PositiveSize, live("unsent bytes a client may have")] = 1 * MiB
    slow_client: Annotated[
        Literal["close", "block", "drop"],
        live(
            "what happens to a client with more than `send_buffer` unsent: `close` it when the room has waited too long "
            "(1 s in any 10 s, or 250 ms in which it took nothing), `block` the backend, or `drop` messages"
        ),
    ] = "close"
    stall_timeout: Annotated[
        PositiveDuration,
        live("a backend that takes no input for this long ends its room; also the longest that `block` waits for a client"),
    ] = 10.0
    compression: Annotated[Flag, live("permessage-deflate for new clients")] = False
    origins: Annotated[
        Origins | None,
        live(
            'allowed `Origin` values; `["*"]` for any; clients without `Origin` are not browsers and pass', default="same origin"
        ),
    ] = None
    subprotocols: Annotated[
        Subprotocols,
        live(
            "names that may be agreed on in `Sec-WebSocket-Protocol`: the first that the client offers and the list has; "
            '`["*"]` takes the client\'s first'
        ),
    ] = ()
    static: Annotated[AbsolutePath | None, live("folder served at `/NAME/`; without a target the app is pages alone")] = None
    static_headers: Annotated[
        Headers,
        live('response headers of the static files, such as `{ Cross-Origin-Opener-Policy = "same-origin" }`'),
    ] = {}

    @property
    def has_rooms(self) -> bool:
        """Whether it has a target for rooms; False for an app that is pages alone."""
        return self.command is not None or self.tcp is not None or self.unix is not None

    @property
    def takes_binary(self) -> bool:
        """Whether a client's binary messages reach the backend as binary; else they must be UTF-8 and count as text."""
        return self.binary or self.routing.client is Routing.GWSOCKET

    @field_validator("join_message", "leave_message")
    @classmethod
    def _empty_is_none(cls, message: str | None) -> str | None:
        return message or None

    @model_validator(mode="after")
    def _agrees(self, info: ValidationInfo) -> "App":
        if info.context is None:  # from a file, all conflicts are reported, at the keys that make them
            for conflict in find_conflicts(
                self.name, {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
            ):
                raise ValueError(f"{conflict.key}: {conflict.message}" if conflict.key else conflict.message)
        return self


class Site(Table):
    """A whole site file."""

    server: Server = Server()
    apps: dict[str, App]
    path: Path | None = None
    """The file it was read from; None when it was made from a command line."""
