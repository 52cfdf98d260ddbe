"""The `[server]` table: each key with its type, default, meaning, and what an edit to it does."""

from typing import Annotated, Literal

from pydantic import ValidationInfo, field_validator

from scalesocket.config.addresses import Binds, Networks
from scalesocket.config.admin import Admin
from scalesocket.config.host_patterns import HostPatterns
from scalesocket.config.keys import Table, fixed_key, listener_key, live_key
from scalesocket.config.rates import ConnectRate
from scalesocket.config.units import AnyDuration, PositiveDuration
from scalesocket.config.values import AbsolutePath, Control, Count, Exposure, Flag, Workers


class Tls(Table):
    """The certificate and the key of the listeners."""

    certificate: Annotated[AbsolutePath, live_key("PEM file with the certificate, followed by its chain")]
    key: Annotated[AbsolutePath, live_key("PEM file with the private key. `check` warns if others can read it", secret=True)]


class Log(Table):
    """The log, which is written to standard error."""

    format: Annotated[Literal["text", "json"], live_key("Lines for people, or one JSON object per line")] = "text"
    level: Annotated[Literal["debug", "info", "warning", "error"], live_key("The lowest level that is written")] = "info"


class Server(Table):
    """The `[server]` table."""

    bind: Annotated[
        Binds,
        listener_key(
            "Addresses to listen on: one or a list of `host:port`, `[v6]:port`, `unix:path` and `fd://N`. Port 0 takes any free "
            "port, which is printed and logged. A host name stands for all its addresses. `[::]` includes IPv4, unless the list "
            "has an IPv4 address with the same port"
        ),
    ] = ("127.0.0.1:9000",)
    tls: Annotated[
        Tls | None, live_key("Certificate and key for TLS. The files are watched; new connections use the new pair")
    ] = None
    metrics: Annotated[Exposure, live_key('Serve `/metrics`. `"admin"`: on the admin listener alone')] = True
    api: Annotated[Exposure, live_key('Serve the rooms API. `"admin"`: on the admin listener alone')] = True
    metrics_rooms: Annotated[
        Flag, live_key("Label metrics by room as well as by app. The number of series is bounded by that of the open rooms")
    ] = False
    control: Annotated[
        Control,
        listener_key(
            'Unix socket of the commands for a running server, with mode 0600: a path, `"auto"` for a path that the server '
            'chooses, or `"off"`'
        ),
    ] = "auto"
    admin: Annotated[
        Admin | None,
        listener_key(
            "Serve the admin API, all rooms, metrics and probes at an address of their own, which nothing else is served at"
        ),
    ] = None
    trusted_proxies: Annotated[
        Networks,
        live_key(
            "Networks of reverse proxies; `unix:` stands for all peers of the unix sockets in `bind`. Only they may report the "
            "address of a client, with `Forwarded`, `X-Forwarded-For`, `X-Forwarded-Proto` or the PROXY protocol"
        ),
    ] = ()
    hosts: Annotated[
        HostPatterns | None,
        live_key(
            "Names that `Host` may have; `*.` in front stands for all names below. Requests for other hosts get 421",
            default="any. On a loopback listener a browser must name a loopback host, unless a proxy forwards the request",
        ),
    ] = None
    http2_websockets: Annotated[
        Flag, live_key("Accept websockets over HTTP/2 (RFC 8441). They take the general lane and cost more than over HTTP/1.1")
    ] = False
    handshake_timeout: Annotated[PositiveDuration, live_key("Time for a client to send a complete request head")] = 10.0
    max_connections: Annotated[Count | None, live_key("Websockets at a time, in all apps. Further ones are closed with 1013")] = (
        10_000
    )
    max_connections_per_ip: Annotated[
        Count | None,
        live_key("Websockets at a time from one address. Further ones get 429. IPv6 addresses count by their /64 network"),
    ] = None
    connect_rate: Annotated[
        ConnectRate | None, live_key("Upgrades per second from one address. Further ones get 429 with `Retry-After`")
    ] = None
    drain_timeout: Annotated[
        AnyDuration,
        live_key(
            "Time over which a shutdown or the removal of an app spreads the closes of its clients, at least 1000 per second. "
            "Then the remaining clients are closed at once"
        ),
    ] = 10.0
    log: Annotated[Log, live_key("Format and level of the log")] = Log()
    workers: Annotated[
        Workers,
        fixed_key(
            'Processes that serve the site: a number, or `"auto"` for one per CPU that the server may use. With several, each '
            "room lives in one of them"
        ),
    ] = 1

    @property
    def is_on_unix_sockets(self) -> bool:
        """Whether all listeners are unix sockets, whose peers have no address."""
        return all(bind.startswith("unix:") for bind in self.bind)

    @field_validator("admin")
    @classmethod
    def _admin_has_its_own_address(cls, admin: Admin | None, info: ValidationInfo) -> Admin | None:
        is_any_port = admin is not None and admin.bind.endswith(":0") and not admin.is_unix
        if admin is not None and not is_any_port and admin.bind in info.data.get("bind", ()):
            raise ValueError(f"{admin.bind} is an address of server.bind as well (choose another)")
        return admin
