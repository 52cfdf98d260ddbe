"""What the commands for clusters print."""

from scalesocket.cli.cluster import format_nodes
from scalesocket.status import NodeEntry


def node(name: str, **changes: object) -> NodeEntry:
    made: dict[str, object] = {
        "node": name,
        "address": "10.0.0.5:9100",
        "version": "1.0.0",
        "state": "serving",
        "rooms": 12,
        "clients": 340,
        "lease": 14.1,
        "last_seen": 0.9,
        "is_here": False,
        "answers": True,
        "problem": None,
    }
    return NodeEntry(**(made | changes))  # type: ignore[arg-type]


NODES = [
    node("a1", is_here=True),
    node(
        "a2",
        address="a2.games.internal.example.com:9100",
        state="lost",
        lease=0.0,
        last_seen=130.0,
        answers=False,
        problem="a2.games.internal.example.com:9100: connection refused",
    ),
]


def test_nodes_are_shown_in_a_table_and_below_it_why_one_does_not_answer() -> None:
    assert list(format_nodes(NODES, None)) == [
        "NODE  STATE    ANSWERS  ROOMS  CLIENTS  LEASE  SEEN  ADDRESS                             VERSION",
        "a1*   serving  yes      12     340      14.1s  0s    10.0.0.5:9100                       1.0.0",
        "a2    lost     no       12     340      -      2m    a2.games.internal.example.com:9100  1.0.0",
        "a2 does not answer: a2.games.internal.example.com:9100: connection refused",
    ]


def test_a_narrow_terminal_cuts_addresses_but_no_reason() -> None:
    lines = list(format_nodes(NODES, 80))

    assert max(len(line) for line in lines[:3]) <= 80
    assert "a2.games.internal…" in lines[2]
    assert lines[3] == "a2 does not answer: a2.games.internal.example.com:9100: connection refused"
