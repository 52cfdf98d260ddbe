"""Settings of `[cluster]` that are valid but probably mistakes, or expose what should stay private."""

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from scalesocket.config.model import Cluster
from scalesocket.config.problems import Finding
from scalesocket.config.urls import is_local_host, is_loopback_name

SAFE_LEASE: Final = 5.0
"""Seconds of a lease below which a short pause of the engine or of the network ends all rooms."""


def find_suspicious_cluster(cluster: Cluster) -> Iterator[Finding]:
    """Find probable mistakes in a valid `[cluster]` table."""
    engine = urlsplit(cluster.engine)
    is_engine_here = engine.scheme == "unix" or is_loopback_name(engine.hostname or "")
    if engine.scheme == "redis" and engine.password is not None and not (is_engine_here or is_local_host(engine.hostname or "")):
        yield Finding(("engine",), "sends its password over a public network without encryption (use rediss)")
    if cluster.lease < SAFE_LEASE:
        yield Finding(("lease",), f"is short: a pause of the engine of {cluster.lease * 0.8:g} s ends all rooms (default: 15s)")
    key = ("listen",) if cluster.advertise is None else ("advertise",)
    host = (cluster.advertise or cluster.listen).host
    if is_loopback_name(host) and not is_engine_here:
        yield Finding(
            key, "can be reached from this machine alone, but the engine is on another (write an address of the network)"
        )
    if cluster.tls is None and not (is_loopback_name(host) or is_local_host(host)):
        yield Finding(key, "is in a public network, where nodes pass on what clients send without encryption (set cluster.tls)")
