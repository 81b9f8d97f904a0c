"""A BGP neighbour under any history of calls, messages in any grouping, ends and time: never raises, never stuck."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from metallb_speaker.announcer.bgp.fsm import State
from metallb_speaker.announcer.bgp.neighbor import Dial, Hangup, Neighbor, SessionDown, SessionUp
from metallb_speaker.announcer.bgp.wire.framing import KEEPALIVE
from metallb_speaker.announcer.bgp.wire.messages import Notification, RouteRefresh
from metallb_speaker.announcer.bgp.wire.update import end_of_rib
from tests.unit.speaker.bgp.pair import HOPS_A, settings, settings_b
from tests.unit.speaker.bgp.sessions import routes

MESSAGES = {
    "OPEN": settings_b().open().encode(),
    "OPEN, graceful": settings_b(graceful_restart=15).open().encode(),
    "KEEPALIVE": KEEPALIVE,
    "UPDATE": end_of_rib("ipv4"),
    "REFRESH": RouteRefresh("ipv4").encode(),
    "NOTIFICATION": Notification(6, 2).encode(),
    "garbage": bytes(19),
}
STEP = st.one_of(
    st.tuples(
        st.just("receive"), st.integers(0, 2), st.lists(st.sampled_from(sorted(MESSAGES)), min_size=1, max_size=4)
    ),
    st.tuples(st.just("answered"), st.booleans(), st.just([])),
    st.tuples(st.just("accepted"), st.just(0), st.just([])),
    st.tuples(st.just("closed"), st.integers(0, 2), st.just([])),
    st.tuples(st.just("time"), st.sampled_from([0.1, 2, 30, 300]), st.just([])),
    st.tuples(st.just("routes"), st.integers(0, 3), st.just([])),
    st.tuples(st.just("reset"), st.booleans(), st.just([])),
)


class Wire:
    """What an edge does: connections by token, and the attempt under way."""

    def __init__(self, graceful: bool) -> None:
        self.neighbor = Neighbor(settings(graceful_restart=15 if graceful else 0), random.Random(1))
        self.now = 0.0
        self.open: list[int] = []
        self.dialing: int | None = None
        self.up = False
        self.neighbor.start(0)
        self.act()

    def act(self) -> None:
        for action in self.neighbor.actions():
            if isinstance(action, Dial):
                assert self.dialing is None, "one attempt at a time"
                self.dialing = action.token
            elif action.token == self.dialing:
                self.dialing = None
            elif action.token in self.open:
                self.open.remove(action.token)
        for token in self.open:
            while data := self.neighbor.pending(token):
                self.neighbor.sent(token, len(data), self.now)
        for event in self.neighbor.events():
            if isinstance(event, SessionUp):
                assert not self.up, "up twice"
                self.up = True
            elif isinstance(event, SessionDown):
                assert self.up, "down, and was not up"
                self.up = False

    def step(self, what: str, which: float, messages: list[str]) -> None:
        neighbor = self.neighbor
        token = self.open[int(which) % len(self.open)] if self.open else None
        if what == "receive" and token is not None:
            neighbor.receive(token, b"".join(MESSAGES[name] for name in messages), self.now)
        elif what == "closed" and token is not None:
            self.open.remove(token)
            neighbor.receive(token, None, self.now)
        elif what == "answered" and self.dialing is not None:
            dialed, self.dialing = self.dialing, None
            if which:
                self.open.append(dialed)
                neighbor.dialed(dialed, HOPS_A, self.now)
            else:
                neighbor.dial_failed(dialed, "refused", self.now)
        elif what == "accepted":
            accepted = neighbor.accepted(HOPS_A, self.now)
            if accepted is not None:
                self.open.append(accepted)
        elif what == "time":
            end = self.now + which
            turns = 0
            while (due := neighbor.deadline()) <= end:
                turns += 1
                assert turns < 200, "it spins"
                self.now = max(self.now, due)
                neighbor.on_deadline(self.now)
                self.act()
            self.now = end
        elif what == "routes":
            neighbor.set_routes(routes(*(f"203.0.113.{i}/32" for i in range(int(which)))), self.now)
        elif what == "reset":
            neighbor.reset(self.now, bfd=bool(which))
        self.act()


@effort(max_examples=1000)
@given(st.booleans(), st.lists(STEP, max_size=30))
def test_any_history(graceful: bool, steps: list[tuple[str, float, list[str]]]) -> None:
    wire = Wire(graceful)
    for step in steps:
        wire.step(*step)
        neighbor = wire.neighbor
        assert set(neighbor._connections) == set(wire.open), "the edge closes what the machine has ended, and no more"
        assert all(connection.state is not State.IDLE for connection in neighbor._connections.values())
        assert wire.up == (neighbor.state is State.ESTABLISHED)
        established = [c for c in neighbor._connections.values() if c.state is State.ESTABLISHED]
        assert len(established) <= 1
        assert not (wire.up and wire.dialing is not None), "no attempt beside a session"
        assert wire.open or wire.dialing is not None or neighbor.deadline() < wire.now + 100, "it will call again"


def test_a_hangup_is_what_the_edge_is_told() -> None:
    """The model above closes connections by it."""
    wire = Wire(graceful=False)
    wire.step("answered", True, [])
    (token,) = wire.open
    wire.neighbor.receive(token, MESSAGES["OPEN"] + KEEPALIVE + MESSAGES["REFRESH"] + MESSAGES["NOTIFICATION"], 0)
    assert [type(action) for action in wire.neighbor.actions()] == [Hangup]
