"""The opening handshake (RFC 6455 4.2)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The head of one HTTP request, as far as rooms, policies and CGI variables need it."""

    method: str
    target: str
    """As it stood on the request line."""
    path: str
    """The target up to `?`, still percent-encoded."""
    query: str
    """What follows `?`, raw; empty without one."""
    headers: dict[str, str]
    """Lower-case names; the values of a repeated field are joined by `, ` (RFC 9110 5.3)."""
    peer: tuple[str, int] | None
    """Address and port of the client, behind a trusted proxy the one it reports; None on a unix socket."""
    local: tuple[str, int] | None
    """Address and port the client connected to; None on a unix socket."""
    is_secure: bool
    http_version: str
    """`1.1` or `2`."""

    @property
    def remote(self) -> str:
        """`ip:port` of the client, or an empty string."""
        return f"{self.peer[0]}:{self.peer[1]}" if self.peer else ""
