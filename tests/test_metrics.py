"""The OpenMetrics text of a site's status, read back by the parser of Prometheus' own library."""

import os
from dataclasses import replace

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parse_text

from scalesocket import __version__
from scalesocket.metrics import OPENMETRICS, TEXT, expose
from scalesocket.status import AppStatus, Counts, LastExit, RoomStatus, SiteStatus, WorkerStatus

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(status: SiteStatus, *, by_room: bool = False) -> Series:
    families = text_string_to_metric_families(expose(status, by_room=by_room, form=OPENMETRICS).decode())
    return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}


def labels(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


def make_room(name: str, *, connections: int = 1, state: str = "open", counts: Counts | None = None) -> RoomStatus:
    return RoomStatus(
        name=name, state=state, pid=1, connections=connections, metadata=None, counts=counts or Counts(connections_total=1)
    )


def make_app(name: str, *rooms: RoomStatus, counts: Counts | None = None) -> AppStatus:
    return AppStatus(
        name=name,
        mount=f"/{name}",
        target="cat",
        rooms=rooms,
        connections=sum(room.connections for room in rooms),
        rooms_total=7,
        counts=counts or Counts(),
        backend_starts=6,
        backend_failures=1,
        backend_exits={"0": 3, "SIGKILL": 1},
        last_exit=LastExit(how="SIGKILL", at=1234.5, room="lobby", line="password: hunter2"),
        refusals={"origin": 2},
    )


def make_site(*apps: AppStatus, last_error: str | None = None, is_draining: bool = False) -> SiteStatus:
    return SiteStatus(
        apps=apps,
        connections=sum(app.connections for app in apps),
        is_draining=is_draining,
        generation=4,
        applied_at=1234.5,
        last_error=last_error,
        public_error=last_error,
        refusals={"unknown_app": 5},
    )


def test_series_by_app_are_sums_over_its_rooms() -> None:
    counts = Counts(
        connections_total=11,
        messages_in=2,
        bytes_in=20,
        messages_out=3,
        bytes_out=30,
        records_out=4,
        slow_clients=5,
        kicked=6,
        drained=7,
    )
    site = make_site(make_app("chat", make_room("a", connections=2), make_room("b", state="lingering"), counts=counts))

    series = read(site)

    chat = labels(app="chat")
    assert series["scalesocket_websocket_connections_total", chat] == 11
    assert series["scalesocket_websocket_connections_open", chat] == 3
    assert series["scalesocket_messages_received_total", chat] == 2
    assert series["scalesocket_received_bytes_total", chat] == 20
    assert series["scalesocket_messages_sent_total", chat] == 3
    assert series["scalesocket_sent_bytes_total", chat] == 30
    assert series["scalesocket_backend_records_total", chat] == 4
    assert series["scalesocket_slow_clients_total", chat] == 5
    assert series["scalesocket_clients_kicked_total", chat] == 6
    assert series["scalesocket_clients_drained_total", chat] == 7
    assert series["scalesocket_rooms_total", chat] == 7
    assert series["scalesocket_rooms_open", labels(app="chat", state="open")] == 1
    assert series["scalesocket_rooms_open", labels(app="chat", state="lingering")] == 1


def test_backends_are_counted_by_exit_status_or_signal() -> None:
    series = read(make_site(make_app("chat")))

    assert series["scalesocket_backend_starts_total", labels(app="chat")] == 6
    assert series["scalesocket_backend_start_failures_total", labels(app="chat")] == 1
    assert series["scalesocket_backend_exits_total", labels(app="chat", status="0")] == 3
    assert series["scalesocket_backend_exits_total", labels(app="chat", status="SIGKILL")] == 1


def test_the_last_exit_has_its_time_and_status_but_no_line_of_the_program() -> None:
    site = make_site(make_app("chat"))

    assert read(site)["scalesocket_backend_last_exit_timestamp_seconds", labels(app="chat", status="SIGKILL")] == 1234.5
    assert b"hunter2" not in expose(site, by_room=True)


def test_refusals_are_counted_by_reason_with_an_empty_app_if_none_was_found() -> None:
    series = read(make_site(make_app("chat")))

    assert series["scalesocket_refusals_total", labels(app="chat", reason="origin")] == 2
    assert series["scalesocket_refusals_total", labels(app="", reason="unknown_app")] == 5


def test_by_room_each_open_room_has_its_series() -> None:
    lobby = make_room("lobby", connections=2, counts=Counts(connections_total=9, messages_in=4))
    site = make_site(make_app("chat", lobby, counts=Counts(connections_total=100)))

    series = read(site, by_room=True)

    where = labels(app="chat", room="lobby")
    assert series["scalesocket_websocket_connections_total", where] == 9
    assert series["scalesocket_websocket_connections_open", where] == 2
    assert series["scalesocket_messages_received_total", where] == 4


def test_by_room_an_app_that_is_not_listed_has_the_sum_of_its_open_rooms() -> None:
    rooms = [make_room(name, connections=2, counts=Counts(messages_in=3)) for name in ("a", "b")]
    site = make_site(make_app("chat", *rooms), make_app("idle"))

    text = expose(site, by_room=True, unnamed=frozenset({"chat", "idle"}), form=OPENMETRICS).decode()

    assert 'scalesocket_websocket_connections_open{app="chat",room=""} 4.0' in text
    assert 'scalesocket_messages_received_total{app="chat",room=""} 6.0' in text
    assert 'app="idle",room=' not in text
    assert 'room="a"' not in text


def test_by_room_an_ended_room_has_no_series() -> None:
    before = read(make_site(make_app("chat", make_room("lobby"))), by_room=True)

    after = read(make_site(make_app("chat", counts=Counts(connections_total=1))), by_room=True)

    assert any("room" in dict(names) for _, names in before)
    assert not any("room" in dict(names) for _, names in after)


def test_by_room_no_sample_of_the_app_counts_a_room_twice() -> None:
    rooms = [make_room(name, counts=Counts(connections_total=3)) for name in ("a", "b")]
    site = make_site(make_app("chat", *rooms, counts=Counts(connections_total=6)))

    series = read(site, by_room=True)

    assert sum(value for (name, _), value in series.items() if name == "scalesocket_websocket_connections_total") == 6


def test_special_characters_in_room_names_are_escaped() -> None:
    name = 'a"b\\c\nd-ü'

    series = read(make_site(make_app("chat", make_room(name))), by_room=True)

    assert ("scalesocket_websocket_connections_open", labels(app="chat", room=name)) in series


def test_a_refused_edit_is_exposed() -> None:
    good = read(make_site())
    broken = read(make_site(last_error="site.toml:1:1: unknown key"))

    successful = ("scalesocket_config_last_reload_successful", labels())
    assert (good[successful], broken[successful]) == (1, 0)
    assert broken["scalesocket_config_last_reload_success_timestamp_seconds", labels()] == 1234.5
    assert broken["scalesocket_config_generation", labels()] == 4


def test_draining_version_and_process_are_exposed() -> None:
    series = read(make_site(is_draining=True))

    assert series["scalesocket_draining", labels()] == 1
    assert series["scalesocket_build_info", labels(version=__version__)] == 1
    assert series["process_resident_memory_bytes", labels()] > 0


def test_the_workers_of_a_server_and_their_processes_are_exposed() -> None:
    def make(index: int, *, state: str, pid: int | None) -> WorkerStatus:
        return WorkerStatus(index=index, pid=pid, state=state, rooms=0, connections=0, restarts=index, since=None)

    workers = (make(0, state="serving", pid=os.getpid()), make(1, state="starting", pid=None), make(2, state="silent", pid=1))
    site = replace(make_site(), workers=workers)
    series = read(site)

    assert series["scalesocket_workers", labels()] == 1
    assert series["scalesocket_worker_restarts_total", labels()] == 3
    assert series["process_cpu_seconds_total", labels(worker="0")] > 0
    assert ("process_cpu_seconds_total", labels(worker="1")) not in series
    assert ("process_cpu_seconds_total", labels()) not in series  # it would be that of whichever worker answers
    assert b'process_resident_memory_bytes{worker="0"}' in expose(site, by_room=False)
    assert ("scalesocket_workers", labels()) not in read(make_site())


def test_both_formats_have_the_same_samples() -> None:
    site = make_site(make_app("chat", make_room('a"b', connections=2), counts=Counts(messages_in=2)), last_error="wrong")

    families = parse_text(expose(site, by_room=True, form=TEXT).decode())  # type: ignore[no-untyped-call]

    read_back = {(sample.name, frozenset(sample.labels.items())) for family in families for sample in family.samples}
    assert read_back == set(read(site, by_room=True))
