"""The load generator counts a server's errors: it runs against servers that make each error on purpose."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from benchmarks.generator import BenchmarkError, Traffic, build_generator, open_mirror, run_drive

pytestmark = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")

WINDOW = ["--seconds", "0.2", "--warm", "0.05"]
ECHO = [*WINDOW, "--senders", "1", "--in-flight", "8"]

Answer = Callable[[int, str], list[str]]
"""Returns what a faulty server sends for its nth message."""


@contextmanager
def faulty_server(answer: Answer) -> Iterator[str]:
    def talk(connection: ServerConnection) -> None:
        for number, message in enumerate(connection):
            assert isinstance(message, str)
            for text in answer(number, message):
                connection.send(text)

    def admit(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(403, "closed") if request.path.endswith("-closed") else None

    with serve(talk, "127.0.0.1", 0, compression=None, process_request=admit) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/room"
        finally:
            server.shutdown()
            thread.join()


def drive(url: str, options: list[str]) -> Traffic:
    traffic = run_drive(url, options, timeout=20).traffic
    assert traffic is not None
    return traffic


def test_a_correct_server_loses_nothing() -> None:
    with open_mirror() as (_, url):
        traffic = drive(url, ["--clients", "20", *ECHO])

    assert traffic.received > 1000
    assert traffic.expected_in_all % 20 == 0
    assert (traffic.lost, traffic.reordered, traffic.duplicated, traffic.corrupt) == (0, 0, 0, 0)


def test_rooms_do_not_receive_each_others_messages() -> None:
    with open_mirror() as (_, url):
        traffic = drive(url, ["--rooms", "5", "--clients", "2", *ECHO])

    assert traffic.lost == 0
    assert traffic.corrupt == 0
    assert traffic.received == pytest.approx(2 * traffic.sent, rel=0.05)


def test_rooms_can_be_opened_before_arrivals_are_counted() -> None:
    with open_mirror() as (_, url):
        report = run_drive(url, ["--rooms", "5", "--clients", "4", "--opened", *ECHO], timeout=20)

    assert report.arrival.clients == report.arrival.latency_us.count == 15
    assert report.traffic is not None
    assert report.traffic.lost == report.traffic.corrupt == 0
    assert report.traffic.received == pytest.approx(4 * report.traffic.sent, rel=0.05)


def test_a_skipped_message_is_lost() -> None:
    left_out: list[int] = []

    def answer(number: int, message: str) -> list[str]:
        if number % 10 != 3:
            return [message]
        left_out.append(number)
        return []

    with faulty_server(answer) as url:
        traffic = drive(url, ECHO)

    assert traffic.lost == len(left_out) > 0
    assert traffic.reordered == traffic.duplicated == 0


def test_a_repeated_message_is_a_duplicate() -> None:
    with faulty_server(lambda number, message: [message] * (2 if number % 10 == 3 else 1)) as url:
        traffic = drive(url, ECHO)

    assert traffic.duplicated > 0
    assert traffic.lost == traffic.reordered == 0


def test_a_late_message_is_reordered() -> None:
    held: list[str] = []

    def answer(number: int, message: str) -> list[str]:
        if number % 10 == 3:
            held.append(message)
            return []
        return [message, held.pop()] if held else [message]

    with faulty_server(answer) as url:
        traffic = drive(url, ECHO)

    assert traffic.reordered > 0
    assert traffic.lost == len(held)
    assert traffic.duplicated == 0


def test_a_changed_byte_is_corrupt() -> None:
    with faulty_server(lambda number, message: [message[:-1] + "?" if number == 5 else message]) as url:
        traffic = drive(url, ECHO)

    assert traffic.corrupt == 1


def test_json_is_recognised_with_its_keys_in_any_order() -> None:
    with faulty_server(lambda number, message: ['{"_from":1,' + message[1:]]) as url:
        traffic = drive(url, [*ECHO, "--json"])

    assert traffic.received > 10
    assert (traffic.lost, traffic.corrupt, traffic.other) == (0, 0, 0)


def test_a_refused_upgrade_is_an_error_that_names_the_status() -> None:
    with faulty_server(lambda number, message: [message]) as url, pytest.raises(BenchmarkError, match="HTTP status 403"):
        run_drive(f"{url}-closed", ["--clients", "3"])


def test_a_refused_connection_is_an_error_that_names_the_address() -> None:
    with pytest.raises(BenchmarkError, match=r"connect to 127\.0\.0\.1:1: Connection refused"):
        run_drive("ws://127.0.0.1:1/room", [])


def test_cpu_and_memory_are_the_servers() -> None:
    with open_mirror() as (pid, url):
        drive = run_drive(url, ["--clients", "50", *ECHO], pid=pid)

    assert drive.traffic is not None
    assert 0 < drive.traffic.usage.server_cpu < 0.5
    assert drive.traffic.usage.server_processes == 1
    assert drive.traffic.usage.main_rss > 100_000


def test_without_a_compiler_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)

    with pytest.raises(BenchmarkError, match="install gcc or clang"):
        build_generator()


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'no such machine' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with pytest.raises(BenchmarkError, match="no such machine"):
        build_generator()


def test_each_client_sends_one_of_the_tokens(tmp_path: Path) -> None:
    received: list[str] = []

    def admit(connection: ServerConnection, request: Request) -> Response | None:
        received.append(request.headers["Authorization"])
        return None

    def talk(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    tokens = tmp_path / "tokens"
    tokens.write_text("one\ntwo\n")
    with serve(talk, "127.0.0.1", 0, compression=None, process_request=admit) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}/room"
            run_drive(url, ["--clients", "4", "--bearers", str(tokens)], timeout=20)
        finally:
            server.shutdown()
            thread.join()

    assert sorted(received) == ["Bearer one", "Bearer one", "Bearer two", "Bearer two"]
