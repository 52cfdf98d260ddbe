"""The `[cluster]` table: the engine of the directory, this node, and its connections to other nodes."""

import re
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from scalesocket.config.addresses import Listen, Target
from scalesocket.config.keys import Table, fixed_key
from scalesocket.config.units import PositiveDuration
from scalesocket.config.urls import EngineUrl
from scalesocket.config.values import AbsolutePath

MIN_SECRET: Final = 16
"""Characters of the shortest secret of a cluster."""
SHORTEST_LEASE: Final = 0.5
"""Seconds. Below, renewals would take more of the engine than rooms do."""
WILDCARDS: Final = frozenset({"0.0.0.0", "::", "*"})

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{str(name)!r} is not a name (use up to 64 letters, digits, '.', '_' and '-', first a letter or digit)")
    return name


def _check_secret(secret: str | None) -> str | None:
    if secret is not None and len(secret.strip()) < MIN_SECRET:
        raise ValueError(f"has fewer than {MIN_SECRET} characters (write a random one: openssl rand -hex 32)")
    return secret


def _check_lease(lease: float) -> float:
    if lease < SHORTEST_LEASE:
        raise ValueError('is too short (write at least "500ms"; the default is "15s")')
    return lease


Name = Annotated[str, AfterValidator(_check_name)]


class ClusterTls(Table):
    """Certificates of the connections between nodes."""

    certificate: Annotated[AbsolutePath, fixed_key("PEM file with the certificate of this node, followed by its chain")]
    key: Annotated[
        AbsolutePath, fixed_key("PEM file with its private key. `check` warns if others can read the file", secret=True)
    ]
    ca: Annotated[AbsolutePath, fixed_key("PEM file with the certificates that sign those of all nodes")]


class Cluster(Table):
    """The `[cluster]` table."""

    engine: Annotated[
        EngineUrl,
        Field(repr=False),
        fixed_key(
            "Redis (from 6.2) or Valkey server that holds the directory: `redis://`, `rediss://` (TLS), `unix://` or "
            "`redis+sentinel://`, with `user:password@` if needed. No message of a client goes through it",
            url=True,
        ),
    ]
    name: Annotated[Name, fixed_key("Name of the cluster: the prefix of its keys in the engine")] = "scalesocket"
    node: Annotated[
        Name | None, fixed_key("Name of this node, which no other node of the cluster may have", default="the name of the host")
    ] = None
    listen: Annotated[Listen, fixed_key("`host:port` at which other nodes hand connections over. Not for clients")]
    advertise: Annotated[
        Target | None, fixed_key("`host:port` at which other nodes reach `listen`", default="the same as `listen`")
    ] = None
    secret: Annotated[
        str | None,
        AfterValidator(_check_secret),
        Field(repr=False),
        fixed_key("Signs everything that nodes send each other; the same on all nodes. Required", secret=True),
    ] = None
    tls: Annotated[
        ClusterTls | None,
        fixed_key(
            "Encrypt the connections between nodes, and accept only nodes with a certificate of `ca`. The files are watched; new "
            "connections use the new ones"
        ),
    ] = None
    lease: Annotated[
        PositiveDuration,
        AfterValidator(_check_lease),
        fixed_key(
            "How long a node may be without the engine. It ends its rooms after four fifths of it, and others take them after "
            "the whole. The same on all nodes"
        ),
    ] = 15.0
    placement: Annotated[
        Literal["local", "least"],
        fixed_key(
            'Where a new room opens: `"local"`, on the node that its first client reached, or `"least"`, on the less busy of two'
        ),
    ] = "local"
    on_engine_loss: Annotated[
        Literal["stop", "keep"],
        fixed_key(
            'What happens to the rooms of a node whose lease ends: `"stop"` ends them; `"keep"` does not, so that a room may '
            "run on two nodes until the engine is back"
        ),
    ] = "stop"

    @property
    def keeps_rooms(self) -> bool:
        """Whether rooms stay open without a lease."""
        return self.on_engine_loss == "keep"

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.secret is None:
            raise ValueError("has no secret, with which nodes recognise each other (set secret or secret_file)")
        if self.advertise is None and self.listen.host in WILDCARDS:
            raise ValueError(
                f"has no advertise, and other nodes cannot connect to {self.listen} "
                f'(write for example advertise = "10.0.0.5:{self.listen.port}")'
            )
        return self
