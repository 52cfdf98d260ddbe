"""The states of a room and the legal moves between them.

Laws:

- A room is LISTED, in its pool's map, until it moves to RETIRING, DRAINING or STOPPING. It never returns: after that no client
  joins it, and its successor of the same name waits for its end.
- Input is queued in WAITING, STARTING and RESTARTING, so a room without clients does not end before its first backend
  has received what they sent.
- STOPPING is final but for ENDED, whatever still happens meanwhile.
- ENDED is final.

A move that the table does not have is a bug; `next_state` raises.

Two facts about a room are not states, because each can be true in several of them and forbids no move: that the one client of a
`oneshot` room has joined, and that an edit has outdated the room's settings.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final


class State(Enum):
    """Where a room is in its life."""

    WAITING = auto()
    """Its predecessor of the same name has not ended. New clients are not sent the history yet: that may still grow."""
    STARTING = auto()
    """Its first backend is being started or connected."""
    OPEN = auto()
    """Its backend runs."""
    LINGERING = auto()
    """Its backend runs, there are no clients, and `idle_timeout` runs."""
    RESTARTING = auto()
    """Its backend has ended, and another one is due or being started."""
    RETIRING = auto()
    """It stops with its last client, which the gateway closes over time."""
    DRAINING = auto()
    """Its backend has ended, and the rest of the output is delivered."""
    STOPPING = auto()
    """Its clients are closed, and its backend is being stopped."""
    ENDED = auto()
    """Its backend is gone and reaped."""


class Move(Enum):
    """What happens to a room."""

    PREDECESSOR_ENDED = auto()
    CLIENT_JOINED = auto()
    EMPTIED = auto()
    """The last client left, or a backend began without any, and the room is not to stop at once."""
    BACKEND_BEGAN = auto()
    BACKEND_RESTARTS = auto()
    """The backend ended, and another one follows."""
    BACKEND_FINISHED = auto()
    """The backend ended, and no other one follows."""
    RETIRE = auto()
    STOP = auto()
    END = auto()


MOVES: Final[Mapping[State, Mapping[Move, State]]] = {
    State.WAITING: {
        Move.PREDECESSOR_ENDED: State.STARTING,
        Move.CLIENT_JOINED: State.WAITING,
        Move.RETIRE: State.RETIRING,
        Move.STOP: State.STOPPING,
    },
    State.STARTING: {
        Move.CLIENT_JOINED: State.STARTING,
        Move.BACKEND_BEGAN: State.OPEN,
        Move.RETIRE: State.RETIRING,
        Move.STOP: State.STOPPING,
    },
    State.OPEN: {
        Move.CLIENT_JOINED: State.OPEN,
        Move.EMPTIED: State.LINGERING,
        Move.BACKEND_RESTARTS: State.RESTARTING,
        Move.BACKEND_FINISHED: State.DRAINING,
        Move.RETIRE: State.RETIRING,
        Move.STOP: State.STOPPING,
    },
    State.LINGERING: {
        Move.CLIENT_JOINED: State.OPEN,
        Move.EMPTIED: State.LINGERING,  # a leave within a leave: the last client failed while another one left
        Move.BACKEND_FINISHED: State.DRAINING,
        Move.RETIRE: State.RETIRING,
        Move.STOP: State.STOPPING,
    },
    State.RESTARTING: {
        Move.CLIENT_JOINED: State.RESTARTING,
        Move.EMPTIED: State.RESTARTING,
        Move.BACKEND_BEGAN: State.OPEN,
        Move.RETIRE: State.RETIRING,
        Move.STOP: State.STOPPING,
    },
    State.RETIRING: {
        Move.PREDECESSOR_ENDED: State.RETIRING,
        Move.BACKEND_BEGAN: State.RETIRING,
        Move.BACKEND_FINISHED: State.RETIRING,
        Move.RETIRE: State.RETIRING,
        Move.STOP: State.STOPPING,
    },
    State.DRAINING: {
        Move.RETIRE: State.DRAINING,
        Move.STOP: State.STOPPING,
    },
    State.STOPPING: {
        Move.PREDECESSOR_ENDED: State.STOPPING,
        Move.BACKEND_BEGAN: State.STOPPING,
        Move.BACKEND_FINISHED: State.STOPPING,
        Move.RETIRE: State.STOPPING,
        Move.STOP: State.STOPPING,
        Move.END: State.ENDED,
    },
    State.ENDED: {
        Move.RETIRE: State.ENDED,
        Move.STOP: State.ENDED,
    },
}

LISTED: Final = frozenset({State.WAITING, State.STARTING, State.OPEN, State.LINGERING, State.RESTARTING})
"""The room can be joined, and another backend may follow the running one."""
STOPPED: Final = frozenset({State.STOPPING, State.ENDED})
"""How the clients are closed is decided."""
KEPT_WITHOUT_CLIENTS: Final = frozenset({State.WAITING, State.STARTING, State.DRAINING, State.STOPPING, State.ENDED})
"""A room without clients neither lingers nor stops: its first backend must receive what they sent, or it ends anyway."""

LABELS: Final[Mapping[State, str]] = {
    State.WAITING: "starting",
    State.STARTING: "starting",
    State.OPEN: "open",
    State.LINGERING: "lingering",
    State.RESTARTING: "starting",
    State.RETIRING: "stopping",
    State.DRAINING: "stopping",
    State.STOPPING: "stopping",
    State.ENDED: "ended",
}
"""The states as the API and the metrics name them."""


class IllegalMoveError(RuntimeError):
    """A move that `MOVES` does not have: a bug."""


def next_state(state: State, move: Move) -> State:
    """Return the state after a move. Raises IllegalMoveError."""
    try:
        return MOVES[state][move]
    except KeyError:
        raise IllegalMoveError(f"{move.name} is illegal while a room is {state.name}") from None
