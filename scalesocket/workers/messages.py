"""The messages between the supervisor and a worker about its process: pings, start, drain, end."""

import msgspec


class Ping(msgspec.Struct, frozen=True):
    """To a worker: answer at once. One that does not answer is killed and replaced."""


class WorkerReady(msgspec.Struct, frozen=True):
    """From a worker: it accepts connections."""


class WorkerFailed(msgspec.Struct, frozen=True):
    """From a worker: it cannot start, and ends."""

    reason: str


class DrainWorker(msgspec.Struct, frozen=True):
    """To a worker: admit no clients, close all clients gradually, end all rooms. It answers when done, and does not end."""


class StopWorker(msgspec.Struct, frozen=True):
    """To a worker: end."""

    is_forced: bool = False
    """Cut all connections and kill all programs first."""
