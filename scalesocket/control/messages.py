"""The messages of the control socket: one request and one answer per connection, each one line of JSON.

After the answer to `tail` more lines follow: the connection is a stream then, until one of its ends closes it.

The requests are the arguments of the operations in `operations/table.py`, and the results are what those return; lists are in
`lists.py`.
"""

from typing import Final

import msgspec

MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes of the longest answer: a status lists every room."""
NO_RESULT: Final = msgspec.Raw(b"null")


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks for an operation, for the log."""

    via: str
    """`control socket` or `admin API`."""
    name: str
    """`uid 0, pid 4711`, or the name of the credential. Never a secret."""

    def __str__(self) -> str:
        """`control socket, uid 0, pid 4711`."""
        return f"{self.via}, {self.name}"


class Reload(msgspec.Struct, tag="reload", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read the site file and apply it; the answer is a ReloadReport."""

    dry_run: bool = False
    """Prepare everything and apply nothing."""
    restart: str | None = None
    """An app whose open rooms are restarted with the applied settings; their clients are closed with 1012."""


class Diff(msgspec.Struct, tag="diff", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compare the site file with the running site; the answer is a ReloadReport."""


class Status(msgspec.Struct, tag="status", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show the apps, rooms and clients; the answer is the SiteStatus."""


class Rooms(msgspec.Struct, tag="rooms", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List rooms; the answer is a RoomList."""

    app: str | None = None
    """None: those of all apps."""
    room: str | None = None
    """A name, or a pattern in which `*` stands for any characters. None: all rooms."""


class Clients(msgspec.Struct, tag="clients", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List clients; the answer is a ClientList. `app` and `room` as in Rooms."""

    app: str | None = None
    room: str | None = None


class Kick(msgspec.Struct, tag="kick", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Close clients of a room, or of rooms; the answer is an Outcome. Either `id` or `user` is given."""

    app: str
    room: str
    """A name, or a pattern in which `*` stands for any characters; also in the requests below."""
    id: int | None = None
    user: str | None = None
    """All clients of this authenticated user."""
    code: int = 4403
    """The close code: 1000, or 4000 to 4999."""
    reason: str = "kicked"
    """The reason in the close frame, of at most 123 bytes of UTF-8."""


class Stop(msgspec.Struct, tag="stop", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Close the clients of rooms gradually with 1001 and stop the backends; the answer is an Outcome."""

    app: str
    room: str
    wait: float | None = None
    """Seconds to wait until the rooms have ended, also those that stop already; at most 3600. None: the answer comes at once."""


class Restart(msgspec.Struct, tag="restart", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Close the clients of rooms gradually with 1012, so that they open them again; the answer is an Outcome."""

    app: str
    room: str | None = None
    """None: all rooms of the app."""
    wait: float | None = None
    """Seconds to wait until the old rooms have ended, at most 3600. None: the answer comes at once."""


class Say(msgspec.Struct, tag="say", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Route a record in rooms as if the program had sent it; the answer is a SayOutcome."""

    app: str
    room: str
    text: str


class Drain(msgspec.Struct, tag="drain", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Admit no more clients, close those present gradually with 1001, and stop the rooms; the answer is an Outcome."""

    app: str | None = None
    """Drained until an edit of the app. None: the whole site, until the server is started again."""
    wait: float | None = None
    """Seconds to wait until the rooms have ended, at most 3600. None: the answer comes at once."""


class Tail(msgspec.Struct, tag="tail", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show the messages of rooms while they pass; the answer is an Outcome, and then a TailEvent in each line until the end."""

    app: str
    room: str


class ClusterStatus(msgspec.Struct, tag="cluster-status", tag_field="command", frozen=True, forbid_unknown_fields=True):
    """List the nodes of the cluster; the answer is a list of NodeEntry."""


class ClusterDrain(
    msgspec.Struct, tag="cluster-drain", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Close the rooms of a node gradually with 1012, and let it open none until it is started again; the answer is an Outcome.

    Clients that connect to it are passed on to other nodes.
    """

    node: str
    """The name of a node."""


class ClusterForget(
    msgspec.Struct, tag="cluster-forget", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """End the lease of a node that is dead for certain, so that others may have its rooms at once; the answer is a Forgotten."""

    node: str
    """The name of a node. If it runs after all, its rooms may run twice until its next renewal, and then end."""


ClusterRequest = ClusterStatus | ClusterDrain | ClusterForget
Request = Reload | Diff | Status | Rooms | Clients | Kick | Stop | Restart | Say | Drain | Tail | ClusterRequest


def wait_of(request: msgspec.Struct) -> float | None:
    """Return how long a request waits for the end of rooms, in seconds; None if it does not."""
    return request.wait if isinstance(request, Stop | Restart | Drain) else None


class AffectedKey(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a difference: a changed key, or an added or removed app."""

    path: str
    """`server.bind`, `apps.chat.routing`, or `apps.chat`."""
    kind: str
    """`added`, `removed`, `changed`, or `renewed` for files with other contents."""
    reload: str
    """The class of the key: `live`, `next` or `listener`."""
    old: str | None = None
    """In the syntax of the site file, with secrets masked; None if it is not set."""
    new: str | None = None
    rooms: int = 0
    """Affected rooms: those of the app, or all of them for a key of the server."""
    clients: int = 0
    """Affected clients."""
    kept_out: int = 0
    """With `auth`: connected clients that the new rule would not let in again."""
    kept_out_users: tuple[str, ...] = ()
    """The first of their users, in alphabetical order."""


class ReloadReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a reload, or of a dry run."""

    is_applied: bool
    """Whether the running site changed."""
    generation: int
    """The generation of the running site."""
    changes: tuple[AffectedKey, ...] = ()
    restarted: int = 0
    """Rooms whose restart was started."""
    warnings: tuple[str, ...] = ()
    """Files of `auth` that are broken, each with the reason; their last valid contents stay in use."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a change affected."""

    rooms: int
    clients: int
    pending: int | None = None
    """With `wait`: the rooms that had not ended in that time. They go on ending."""
    unreachable: tuple[str, ...] = ()
    """Nodes of the cluster that were not reached, and may have such rooms; `*` for all others, if the engine does not answer."""


class SayOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a record."""

    rooms: int
    delivered: int
    """Messages sent to clients, counted once for each client."""
    dropped: int
    """Records, or instructions in one, that were not carried out; the log says why."""
    unreachable: tuple[str, ...] = ()
    """As in Outcome."""


class TailEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a tail."""

    at: float
    """Unix time."""
    app: str | None = None
    room: str | None = None
    event: str
    """`in` for a message of a client, `out` for one of the program, `ended` for a room, `left_out`, or `lost` for rooms that have
    ended with a worker process, or whose node is not reached any more."""
    client: int | None = None
    """The sender of `in`."""
    to: tuple[int, ...] | None = None
    """Recipients of `out`, at most 100 of them; None: everyone in the room."""
    exclude: tuple[int, ...] | None = None
    """Clients that do not receive it, at most 100 of them."""
    text: str | None = None
    """A text message, without what exceeds 4 KiB."""
    base64: str | None = None
    """The same of a binary message."""
    size: int | None = None
    """Bytes of the whole message."""
    is_truncated: bool = False
    count: int | None = None
    """Messages that were left out, because they came too fast or were not read fast enough; with `lost`, rooms."""
    node: str | None = None
    """With `lost`: the node of the rooms, in a cluster."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to any request: an error, or the result."""

    error: str | None = None
    """Why the request failed; may have several lines."""
    is_site_wrong: bool = False
    """Whether the error is in the site file."""
    result: msgspec.Raw = NO_RESULT
    """What the operation returned, as JSON."""
