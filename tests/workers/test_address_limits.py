"""Limits of an address in a server of three workers: exact, whichever workers accept the connections and have the rooms."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final

import bcrypt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.auth.test_matrix import basic
from tests.cli.serving import DEADLINE, serving

PER_ADDRESS: Final = 7
BURST: Final = 11
"""Also enough for each test with one address."""
FAILURES: Final = 5
ATTEMPTS: Final = 21
SITE: Final = f"""
[server]
bind = "127.0.0.1:0"
workers = 3
control = "off"
trusted_proxies = ["127.0.0.1/32"]
max_connections_per_ip = {PER_ADDRESS}
connect_rate = {{ per_ip = 0.001, burst = {BURST} }}

[apps.chat]
command = ["cat"]

[apps.vault]
command = ["cat"]
auth = {{ users_file = "users", failures = {{ limit = {FAILURES}, per = "1h" }} }}
"""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "site.toml").write_text(SITE)
    (folder / "users").write_bytes(b"ann:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)) + b"\n")
    with serving("serve", str(folder / "site.toml"), cwd=folder) as server:
        yield server.port


def attempt(port: int, path: str, address: str, stack: ExitStack, password: str | None = None) -> int:
    """Try to open a websocket, as an address; return the status. The websocket stays open until `stack` ends.

    429 also if it was opened and closed with 1013 at once: another worker took the last place while it was handed over.
    """
    headers = {"X-Forwarded-For": address} | ({} if password is None else basic("ann", password))
    try:
        url = f"ws://127.0.0.1:{port}{path}"
        client = stack.enter_context(connect(url, open_timeout=DEADLINE, additional_headers=headers))
        client.send("hi")
        assert client.recv(timeout=DEADLINE) == "hi"
    except InvalidStatus as refused:
        return refused.response.status_code
    except ConnectionClosed as closed:
        return 429 if closed.rcvd is not None and closed.rcvd.code == 1013 else 1006
    return 101


def attempt_all(port: int, path: str, address: str, number: int, stack: ExitStack, password: str | None = None) -> Counter[int]:
    """Try so many times, eight at a time, each with a room of its own; count the statuses."""
    with ThreadPoolExecutor(8) as threads:
        tried = [threads.submit(attempt, port, f"{path}{index}", address, stack, password) for index in range(number)]
    return Counter(each.result() for each in tried)


def test_an_address_has_at_most_max_connections_per_ip_in_all_workers(port: int) -> None:
    with ExitStack() as stack:
        statuses = attempt_all(port, "/chat/per-ip", "192.0.2.1", BURST, stack)

        assert statuses == {101: PER_ADDRESS, 429: BURST - PER_ADDRESS}
        assert attempt(port, "/chat/per-ip0", "192.0.2.2", stack) == 101


def test_connect_rate_is_counted_over_all_workers(port: int) -> None:
    statuses: Counter[int] = Counter()
    for number in range(0, ATTEMPTS, few := PER_ADDRESS // 2):  # also with those that are just closing
        with ExitStack() as stack:
            statuses += attempt_all(port, f"/chat/rate{number}-", "192.0.2.3", few, stack)

    assert statuses == {101: BURST, 429: ATTEMPTS - BURST}


def test_failures_in_any_worker_keep_an_address_out_of_all(port: int) -> None:
    with ExitStack() as stack:
        statuses = attempt_all(port, "/vault/room", "192.0.2.4", FAILURES, stack, "wrong")
        assert statuses == {401: FAILURES}

        for number in range(PER_ADDRESS - 1):
            assert attempt(port, f"/vault/room{number}", "192.0.2.4", stack, "secret") == 429
        assert attempt(port, "/vault/room", "192.0.2.5", stack, "secret") == 101
