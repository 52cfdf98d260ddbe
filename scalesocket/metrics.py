"""The metrics of a site as OpenMetrics or Prometheus text, read from a `SiteStatus` at each scrape.

With `metrics_rooms` the families in `ROOM_SERIES` have a label `room` and one sample for each open room. The samples of a room
disappear when it ends, so their number is bounded by the open rooms. No sample includes ended rooms, because their counts would
rise a second time when a room ends, and `rate()` would count them twice. Totals that include ended rooms are available with
`metrics_rooms = false`, where the same families are sums over all rooms of an app.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client import exposition as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from scalesocket import __version__
from scalesocket.status import AppStatus, Counts, OwnNodeStatus, RoomStatus, SiteStatus, WorkerStatus
from scalesocket.wire.accept import choose_named, parse_accept


@dataclass(frozen=True, slots=True)
class Format:
    """A text format of metrics."""

    media_type: str
    version: str
    write: Callable[[Collector], bytes]

    @property
    def content_type(self) -> str:
        """The value of `Content-Type`, with the version of the format."""
        return f"{self.media_type}; version={self.version}; charset=utf-8"


TEXT: Final = Format("text/plain", "0.0.4", prometheus.generate_latest)
"""Prometheus text, which browsers display."""
OPENMETRICS: Final = Format("application/openmetrics-text", "1.0.0", openmetrics.generate_latest)


@dataclass(frozen=True, slots=True)
class Row:
    """A counter: the name of its family without `_total`, its documentation, and the field it is read from."""

    name: str
    documentation: str
    field: str


ROOM_SERIES: Final = (
    Row("scalesocket_websocket_connections", "Websockets that joined a room.", "connections_total"),
    Row("scalesocket_messages_received", "Messages from clients.", "messages_in"),
    Row("scalesocket_received_bytes", "Payload bytes from clients.", "bytes_in"),
    Row("scalesocket_messages_sent", "Messages to clients, counted once for each client.", "messages_out"),
    Row("scalesocket_sent_bytes", "Payload bytes to clients, counted once for each client.", "bytes_out"),
    Row("scalesocket_backend_records", "Records read from backends.", "records_out"),
    Row(
        "scalesocket_messages_dropped",
        "Messages that were not delivered: invalid, or for a backend that no longer reads.",
        "messages_dropped",
    ),
    Row("scalesocket_slow_clients", "Clients closed because they did not read fast enough.", "slow_clients"),
    Row("scalesocket_clients_kicked", "Clients closed by an operator's kick.", "kicked"),
    Row("scalesocket_clients_drained", "Clients closed over time by a stop, restart, drain or shutdown.", "drained"),
    Row("scalesocket_slow_client_messages_dropped", "Messages left out for slow clients.", "slow_dropped"),
)
"""Counters from `Counts`, by app or by open room."""

APP_SERIES: Final = (
    Row("scalesocket_rooms", "Rooms that were opened.", "rooms_total"),
    Row("scalesocket_backend_starts", "Backends started or connected.", "backend_starts"),
    Row("scalesocket_backend_start_failures", "Backends that could not be started or connected.", "backend_failures"),
)
"""Counters from `AppStatus`, by app."""


def choose_format(accept: str) -> Format:
    """Choose the format by the `Accept` of a request: OpenMetrics if it is named with the highest weight, else Prometheus text.

    Other versions of OpenMetrics are ignored.
    """
    preferences = parse_accept(accept)
    known = (wanted for wanted in preferences if wanted.name != OPENMETRICS.media_type or _is_ours(wanted.parameters))
    return OPENMETRICS if choose_named(known, (OPENMETRICS.media_type, TEXT.media_type)) == OPENMETRICS.media_type else TEXT


def _is_ours(parameters: Mapping[str, str]) -> bool:
    return parameters.get("version", OPENMETRICS.version) == OPENMETRICS.version


def expose(
    status: SiteStatus, *, by_room: bool, unnamed: Set[str] = frozenset(), form: Format = TEXT, is_public: bool = False
) -> bytes:
    """Return all metrics as text in a format. Reads only `status`, so it may run in any thread.

    `unnamed`: apps whose rooms are not named. By room, they have the sum over their open rooms, with an empty name. `is_public`:
    without the running version.
    """
    registry = CollectorRegistry()
    registry.register(SiteCollector(lambda: status, lambda: by_room, unnamed, is_public=is_public))
    if status.workers:
        registry.register(WorkerProcesses(status.workers))
    else:
        ProcessCollector(registry=registry)
    return form.write(registry)


class SiteCollector(Collector):
    """Collects the metric families of the site. `source` and `by_room` (`server.metrics_rooms`) are called at each scrape."""

    def __init__(
        self,
        source: Callable[[], SiteStatus],
        by_room: Callable[[], bool],
        unnamed: Set[str] = frozenset(),
        *,
        is_public: bool = False,
    ) -> None:
        """Do not name the rooms of the apps `unnamed`; leave out the version if `is_public`. See `expose`."""
        self._source = source
        self._by_room = by_room
        self._unnamed = unnamed
        self._is_public = is_public

    def collect(self) -> Iterator[Metric]:
        """Yield all families. Called by the registry."""
        status = self._source()
        by_room = self._by_room()
        yield from collect_counts(status.apps, by_room=by_room, unnamed=self._unnamed)
        yield from collect_apps(status.apps)
        yield from collect_refusals(status)
        yield from collect_config(status)
        if status.workers:
            yield from collect_workers(status.workers)
        if status.cluster is not None:
            yield from collect_cluster(status.cluster)
        if not self._is_public:
            yield InfoMetricFamily("scalesocket_build", "The running version.", value={"version": __version__})


def collect_counts(apps: Sequence[AppStatus], *, by_room: bool, unnamed: Set[str] = frozenset()) -> Iterator[Metric]:
    """Yield the counts of rooms and their open websockets."""
    labels = ("app", "room") if by_room else ("app",)
    rows: list[tuple[tuple[str, ...], int, Counts]] = []
    for app in apps:
        if by_room and app.name in unnamed:
            if app.rooms:
                rows.append(((app.name, ""), sum(room.connections for room in app.rooms), _sum_counts(app.rooms)))
        elif by_room:
            rows.extend(((app.name, room.name), room.connections, room.counts) for room in app.rooms)
        else:
            rows.append(((app.name,), app.connections, app.counts))
    is_open = GaugeMetricFamily("scalesocket_websocket_connections_open", "Websockets that are in a room now.", labels=labels)
    for values, connections, _ in rows:
        is_open.add_metric(values, connections)
    yield is_open
    for row in ROOM_SERIES:
        family = CounterMetricFamily(row.name, row.documentation, labels=labels)
        for values, _, counts in rows:
            family.add_metric(values, getattr(counts, row.field))
        yield family


def _sum_counts(rooms: Iterable[RoomStatus]) -> Counts:
    counts = Counts()
    for room in rooms:
        counts.add(room.counts)
    return counts


def collect_apps(apps: Sequence[AppStatus]) -> Iterator[Metric]:
    """Yield the rooms and backends of each app."""
    is_open = GaugeMetricFamily("scalesocket_rooms_open", "Rooms that can be joined now, by state.", labels=("app", "state"))
    exits = CounterMetricFamily(
        "scalesocket_backend_exits", "Backends that ended, by exit status or signal.", labels=("app", "status")
    )
    last = GaugeMetricFamily(
        "scalesocket_backend_last_exit_timestamp_seconds",
        "Unix time at which the last backend to end did, by exit status or signal.",
        labels=("app", "status"),
    )
    for app in apps:
        states = dict.fromkeys(("starting", "open", "lingering"), 0)
        for room in app.rooms:
            states[room.state] = states.get(room.state, 0) + 1
        for state, number in states.items():
            is_open.add_metric((app.name, state), number)
        for status, number in app.backend_exits.items():
            exits.add_metric((app.name, status), number)
        if app.last_exit is not None:
            last.add_metric((app.name, app.last_exit.how), app.last_exit.at)
    yield is_open
    yield exits
    yield last
    for row in APP_SERIES:
        family = CounterMetricFamily(row.name, row.documentation, labels=("app",))
        for app in apps:
            family.add_metric((app.name,), getattr(app, row.field))
        yield family


def collect_refusals(status: SiteStatus) -> Iterator[Metric]:
    """Yield the refusals by reason. `app` is empty if no app was found."""
    family = CounterMetricFamily("scalesocket_refusals", "Upgrades and joins turned away, by reason.", labels=("app", "reason"))
    for name, refusals in (("", status.refusals), *((app.name, app.refusals) for app in status.apps)):
        for reason, number in refusals.items():
            family.add_metric((name, reason), number)
    yield family


def collect_workers(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    """Yield the number of worker processes, and how often one was replaced."""
    serving = sum(worker.state == "serving" for worker in workers)
    yield GaugeMetricFamily("scalesocket_workers", "Worker processes that serve now.", value=serving)
    yield CounterMetricFamily(
        "scalesocket_worker_restarts",
        "Worker processes that were started in the place of one that had ended.",
        value=sum(worker.restarts for worker in workers),
    )


class WorkerProcesses(Collector):
    """Collects processor time, memory and descriptors of each worker process, with its number as the label `worker`."""

    def __init__(self, workers: Sequence[WorkerStatus]) -> None:
        """Read /proc of these workers, whichever process does it."""
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """Yield the families of all workers together. Called by the registry."""
        families: dict[str, Metric] = {}
        for worker in self._workers:
            if (pid := worker.pid) is None:
                continue
            for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    family.add_sample(sample.name, {**sample.labels, "worker": str(worker.index)}, sample.value)
        yield from families.values()


def collect_config(status: SiteStatus) -> Iterator[Metric]:
    """Yield the state of the site file: the edit in force, and whether it is the newest."""
    yield GaugeMetricFamily(
        "scalesocket_config_generation", "1 for the site as started, plus one for each edit applied.", value=status.generation
    )
    yield GaugeMetricFamily(
        "scalesocket_config_last_reload_successful",
        "1 when the newest texts of the site file and of the files of `auth` are those that run, else 0.",
        value=status.last_error is None and not status.warnings,
    )
    yield GaugeMetricFamily(
        "scalesocket_config_last_reload_success_timestamp_seconds",
        "Unix time of the last edit applied.",
        value=status.applied_at,
    )
    yield GaugeMetricFamily("scalesocket_draining", "1 while the server is shutting down, else 0.", value=status.is_draining)


def collect_cluster(node: OwnNodeStatus) -> Iterator[Metric]:
    """Yield the lease of this node, its claims, and its connections with other nodes."""
    for name, text, value in (
        (
            "engine_up",
            "1 while the engine of the directory renews the lease of this node in time, else 0.",
            float(node.is_engine_up),
        ),
        ("lease_seconds_left", "Until this node ends its rooms, unless its lease is renewed.", node.lease_seconds_left),
        ("rooms_owned", "Rooms of this node in the directory.", node.owned),
        ("clients_held", "Clients that wait until the directory knows the owner of their room.", node.held),
    ):
        yield GaugeMetricFamily(f"scalesocket_cluster_{name}", text, value=value)
    for name, text, value in (
        ("leases_lost", "Leases of this node that ended.", node.leases_lost),
        ("claim_seconds", "Time of claims, together.", node.claim_seconds),
        ("hand_over_seconds", "Time of hand-overs to other nodes, together.", node.hand_over_seconds),
    ):
        yield CounterMetricFamily(f"scalesocket_cluster_{name}", text, value=value)
    for name, text, results in (
        ("claims", "Claims of rooms, by result.", node.claims),
        ("hand_overs", "Clients handed over to other nodes, by result.", node.hand_overs),
        ("arrivals", "Connections of other nodes, by result.", node.arrivals),
    ):
        family = CounterMetricFamily(f"scalesocket_cluster_{name}", text, labels=("result",))
        for result, number in results.items():
            family.add_metric((result,), number)
        yield family
