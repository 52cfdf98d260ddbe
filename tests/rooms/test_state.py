"""The states of a room and its moves, as a table."""

import pytest

from scalesocket.rooms.state import (
    KEPT_WITHOUT_CLIENTS,
    LABELS,
    LISTED,
    MOVES,
    STOPPED,
    IllegalMoveError,
    Move,
    State,
    next_state,
)

EVERY_MOVE = [(state, move) for state in State for move in Move]


@pytest.mark.parametrize(("state", "move"), EVERY_MOVE, ids=lambda value: value.name)
def test_a_move_leads_where_the_table_says_or_raises(state: State, move: Move) -> None:
    if move in MOVES[state]:
        assert next_state(state, move) is MOVES[state][move]
    else:
        with pytest.raises(IllegalMoveError, match=f"{move.name} is illegal while a room is {state.name}"):
            next_state(state, move)


def reachable(start: State) -> set[State]:
    found, new = set[State](), {start}
    while new:
        found |= new
        new = {target for state in new for target in MOVES[state].values()} - found
    return found


def test_every_state_can_be_reached_and_every_room_can_end() -> None:
    assert reachable(State.WAITING) == set(State)
    assert all(State.ENDED in reachable(state) for state in State)


def test_a_room_that_left_the_map_never_returns() -> None:
    for state in set(State) - LISTED:
        assert not reachable(state) & LISTED


def test_no_client_joins_a_room_that_left_the_map() -> None:
    assert {state for state in State if Move.CLIENT_JOINED in MOVES[state]} == LISTED


def test_every_room_may_be_stopped_and_retired_at_any_time() -> None:
    for state in State:
        assert next_state(state, Move.STOP) in STOPPED
        assert next_state(state, Move.RETIRE) not in LISTED


def test_a_room_that_was_stopped_only_ends() -> None:
    assert set(MOVES[State.STOPPING].values()) == {State.STOPPING, State.ENDED}
    assert set(MOVES[State.ENDED].values()) == {State.ENDED}


def test_a_room_without_clients_lingers_only_when_its_first_backend_has_begun() -> None:
    assert {state for state in State if Move.EMPTIED in MOVES[state]} == {State.OPEN, State.LINGERING, State.RESTARTING}
    assert {State.WAITING, State.STARTING} <= KEPT_WITHOUT_CLIENTS


def test_rooms_that_can_be_joined_are_shown_as_starting_open_or_lingering() -> None:
    assert {LABELS[state] for state in LISTED} == {"starting", "open", "lingering"}
    assert set(LABELS) == set(State)
