"""The states of one group on this node, and every transition between them, in one enforced table."""

from __future__ import annotations

from enum import Enum

#: How long the view must stay as it is before a group is taken from a live owner: moves that only restore
#: the election's order are never urgent, and views of different nodes settle within milliseconds.
MOVE_GRACE = 0.3
#: How long a live owner that the view has replaced goes on answering for a successor that says nothing.
YIELD_WAIT = 2.0
#: The whole of an ordered hand-over at shutdown.
LEAVE_WAIT = 1.0
#: The same towards a successor that cannot speak to us: its gratuitous frame, or this, must do.
MUTE_WAIT = 0.75
#: Between two sendings of a claim that is not answered, and of a hand-over; doubles each time up to the latter.
REPEAT_EVERY, REPEAT_MOST = 0.05, 0.4
#: Claims to a member that never answers end after this many.
CLAIM_TRIES = 10
#: After yielding to a newer claim although the own view says otherwise: before claiming anew. Doubles each time.
HOLD = 1.0
MAX_HOLD = 60.0
#: Two who both announce a group and do not hear each other by UDP: after this the order of election decides.
CONTEST = 0.6
#: Two who hear each other and both elect themselves: after this their names decide.
DISPUTE = 0.15
#: An announcement after this long a pause is another contest.
CONTEST_FORGET = 3.0
#: A node that was found dead and shows itself again on the wire alone is given nothing for so long.
RETURN_WAIT = 10.0


class State(Enum):
    """IDLE groups are not kept anywhere: it is what all groups of other nodes are in."""

    IDLE = "idle"
    PENDING = "pending"  # elected, but a live owner holds it and the view is young
    OWNED = "owned"
    YIELDING = "yielding"  # replaced, answering until the successor has begun to


class Input(Enum):
    """What can happen to a group."""

    WIN = "win"  # elected, and nobody live stands in the way
    WAIT = "wait"  # elected, and another live one holds it
    LOSE = "lose"  # another one is elected
    CLAIMED = "claimed"  # another one says, or shows on the wire, that it owns it
    DUE = "due"  # the time of the state is over
    DROP = "drop"  # removed, nobody elected, or this process must not own anything


S, On = State, Input
TRANSITIONS: dict[tuple[State, Input], State] = {
    (S.IDLE, On.WIN): S.OWNED,
    (S.IDLE, On.WAIT): S.PENDING,
    (S.IDLE, On.LOSE): S.IDLE,
    (S.IDLE, On.CLAIMED): S.IDLE,
    (S.IDLE, On.DROP): S.IDLE,
    (S.PENDING, On.WIN): S.OWNED,
    (S.PENDING, On.WAIT): S.PENDING,
    (S.PENDING, On.LOSE): S.IDLE,
    (S.PENDING, On.CLAIMED): S.PENDING,
    (S.PENDING, On.DUE): S.OWNED,
    (S.PENDING, On.DROP): S.IDLE,
    (S.OWNED, On.WIN): S.OWNED,
    (S.OWNED, On.WAIT): S.OWNED,
    (S.OWNED, On.LOSE): S.YIELDING,
    (S.OWNED, On.CLAIMED): S.IDLE,
    (S.OWNED, On.DROP): S.IDLE,
    (S.YIELDING, On.WIN): S.OWNED,
    (S.YIELDING, On.WAIT): S.OWNED,
    (S.YIELDING, On.LOSE): S.YIELDING,
    (S.YIELDING, On.CLAIMED): S.IDLE,
    (S.YIELDING, On.DUE): S.IDLE,
    (S.YIELDING, On.DROP): S.IDLE,
}
#: In these states this node answers for the group.
ANSWERING = frozenset((S.OWNED, S.YIELDING))


class IllegalTransition(RuntimeError):
    """The machine did what the table does not have: a defect of the machine, never of its input."""


def step(state: State, event: Input) -> State:
    """The next state. Raises IllegalTransition, and nothing has changed then."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event.value} in state {state.value}") from None
