"""Warnings about other nodes that are logged once a minute."""

from structlog.testing import capture_logs

from scalesocket.cluster.sparse_log import INTERVAL, MAX_KINDS, SparseLog


def test_each_kind_is_logged_once_in_an_interval() -> None:
    now = [1.0]
    log = SparseLog(lambda: now[0])
    with capture_logs() as events:
        for address in ("a:1", "a:1", "b:1"):
            log.warn("node not reached", address, address=address)
        now[0] += INTERVAL
        log.warn("node not reached", "a:1", address="a:1")

    assert [event["address"] for event in events] == ["a:1", "b:1", "a:1"]


def test_what_is_remembered_is_bounded() -> None:
    log = SparseLog(lambda: 1.0)
    with capture_logs() as events:
        for number in range(MAX_KINDS + 1):
            log.warn("node not reached", str(number))

    assert len(events) == MAX_KINDS + 1
    assert len(log._logged_at) == 1
