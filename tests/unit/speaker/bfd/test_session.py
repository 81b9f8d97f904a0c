"""Two BFD sessions against each other, in virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metallb_speaker.announcer.bfd.session import TABLE, Down, Profile, Session, SessionEvent, Up
from metallb_speaker.announcer.bfd.wire import Diagnostic, Packet, State

FAST = Profile(receive_interval=0.05, transmit_interval=0.05, detect_multiplier=3)


@dataclass
class Pair:
    a: Session
    b: Session
    now: float = 0.0
    loss: float = 0.0
    cut: bool = False
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    events: dict[str, list[tuple[float, SessionEvent]]] = field(default_factory=lambda: {"a": [], "b": []})
    loops: bool = True  # whether the sides' forwarding planes return echo packets
    sent: dict[str, list[tuple[float, Packet]]] = field(default_factory=lambda: {"a": [], "b": []})

    @classmethod
    def make(cls, a: Profile = FAST, b: Profile = FAST) -> Pair:
        return cls(Session(a, 11, 0.0, random.Random(1)), Session(b, 22, 0.0, random.Random(2)))

    def _carry(self) -> None:
        moved = True
        while moved:
            moved = False
            for name, side, other in (("a", self.a, self.b), ("b", self.b, self.a)):
                self.events[name] += [(self.now, e) for e in side.events()]
                for payload in side.echo.pending():
                    if self.loops and not self.cut:
                        side.echo.returned(payload, self.now)
                for raw in side.pending():
                    moved = True
                    packet = Packet.decode(raw)
                    self.sent[name].append((self.now, packet))
                    if not self.cut and self.rng.random() >= self.loss:
                        other.receive(packet, self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        self._carry()
        while (soonest := min(self.a.deadline(), self.b.deadline())) <= end:
            self.now = max(self.now, soonest)
            for side in (self.a, self.b):
                if self.now >= side.deadline():
                    side.on_deadline(self.now)
            self._carry()
        self.now = end


def test_a_session_comes_up_at_once_and_then_runs_at_the_fast_rate() -> None:
    pair = Pair.make()
    pair.run(0.01)
    assert (pair.a.state, pair.b.state) == (State.UP, State.UP)
    pair.sent["a"].clear()
    pair.run(10)
    assert 200 <= len(pair.sent["a"]) <= 270  # 50 ms, 75 to 100 % of it


def test_a_cut_cable_is_seen_within_the_detection_time() -> None:
    pair = Pair.make()
    pair.run(5)
    pair.cut = True
    start = pair.now
    pair.run(1)
    for name in ("a", "b"):
        (when, event) = pair.events[name][-1]
        assert event == Down(Diagnostic.DETECTION_EXPIRED)
        assert 0.1 <= when - start <= 0.151
    assert pair.a.down_events == 1


def test_the_session_comes_back_after_the_cable_does() -> None:
    pair = Pair.make()
    pair.run(1)
    pair.cut = True
    pair.run(5)
    pair.cut = False
    pair.run(2)
    assert [type(e) for _, e in pair.events["a"]] == [Up, Down, Up]


def test_a_quiet_session_holds_for_a_day() -> None:
    slow = Profile(receive_interval=10, transmit_interval=10)
    pair = Pair.make(slow, slow)
    pair.run(86_400)
    assert [type(e) for _, e in pair.events["a"]] == [Up]


def test_the_slower_of_both_wishes_is_the_rate() -> None:
    pair = Pair.make(FAST, Profile(receive_interval=0.4, transmit_interval=0.2))
    pair.run(2)
    pair.sent["a"].clear()
    pair.sent["b"].clear()
    pair.run(40)
    assert 100 <= len(pair.sent["a"]) <= 140  # 0.4 s
    assert 200 <= len(pair.sent["b"]) <= 275  # 0.2 s
    assert pair.b.detection_time() == pytest.approx(3 * 0.4)
    assert pair.a.detection_time() == pytest.approx(3 * 0.2)


def test_while_down_at_most_one_packet_a_second() -> None:
    pair = Pair.make()
    pair.cut = True
    pair.run(60)
    assert 59 <= len(pair.sent["a"]) <= 81


def test_admin_down_takes_the_peer_down_and_says_why() -> None:
    pair = Pair.make()
    pair.run(1)
    pair.a.shutdown(pair.now)
    pair.run(1)
    assert pair.events["b"][-1][1] == Down(Diagnostic.NEIGHBOR_DOWN, by_operator=True)
    assert pair.sent["a"][-1][1].state is State.ADMIN_DOWN
    assert pair.sent["a"][-1][1].diagnostic == Diagnostic.ADMIN_DOWN


def test_passive_sessions_wait_to_be_called() -> None:
    passive = Profile(passive_mode=True)
    pair = Pair.make(passive, passive)
    pair.run(30)
    assert not pair.sent["a"]
    assert not pair.sent["b"]
    pair = Pair.make(FAST, passive)
    pair.run(1)
    assert (pair.a.state, pair.b.state) == (State.UP, State.UP)


def test_new_timers_are_polled_and_the_session_stays_up() -> None:
    pair = Pair.make()
    pair.run(1)
    pair.sent["a"].clear()
    pair.a.set(Profile(receive_interval=0.5, transmit_interval=0.5), pair.now)
    pair.run(3)
    assert [type(e) for _, e in pair.events["a"]] == [Up]
    assert pair.sent["a"][0][1].poll
    assert not pair.sent["a"][-1][1].poll
    assert pair.b.detection_time() == pytest.approx(1.5)


def test_a_shorter_receive_interval_counts_only_when_the_peer_has_heard_of_it() -> None:
    """RFC 5880 section 6.8.3: until then the peer sends as slowly as before."""
    session = Session(Profile(receive_interval=1.0, transmit_interval=0.05), 11, 0.0, random.Random(1))
    session.receive(Packet(State.INIT, 0, 3, 22, 11, 50_000, 50_000), 0.0)
    session.on_deadline(0.0)
    session.receive(Packet(State.UP, 0, 3, 22, 11, 50_000, 50_000, final=True), 0.1)
    assert session.state is State.UP
    session.pending()
    session.set(Profile(receive_interval=0.05, transmit_interval=0.05), 0.2)
    assert session.detection_time() == pytest.approx(3.0)
    session.on_deadline(0.2)
    (raw,) = session.pending()
    assert Packet.decode(raw).poll
    assert Packet.decode(raw).required_min_rx == 50_000
    session.receive(Packet(State.UP, 0, 3, 22, 11, 50_000, 50_000), 0.9)
    assert session.detection_time() == pytest.approx(3.0), "no Final yet"
    session.receive(Packet(State.UP, 0, 3, 22, 11, 50_000, 50_000, final=True), 0.95)
    assert session.detection_time() == pytest.approx(0.15)
    session.set(Profile(receive_interval=1.0, transmit_interval=0.05), 1.0)
    assert session.detection_time() == pytest.approx(3.0), "a longer one counts at once"


def test_a_final_for_an_earlier_poll_does_not_end_a_later_one() -> None:
    pair = Pair.make()
    pair.run(1)
    pair.a.set(Profile(receive_interval=0.5, transmit_interval=0.05), pair.now)
    pair.a.set(Profile(receive_interval=0.02, transmit_interval=0.05), pair.now)
    pair.a.receive(Packet(State.UP, 0, 3, 22, 11, 50_000, 50_000, final=True), pair.now)
    assert pair.a.detection_time() == pytest.approx(1.5)
    pair.run(1)
    assert pair.a.detection_time() == pytest.approx(0.15)
    assert [type(e) for _, e in pair.events["a"]] == [Up]


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.1])
def test_loss_with_five_tries_raises_no_false_alarm(loss: float) -> None:
    steady = Profile(receive_interval=0.05, transmit_interval=0.05, detect_multiplier=8)
    pair = Pair.make(steady, steady)
    pair.run(1)
    pair.loss = loss
    pair.run(300)
    assert [type(e) for _, e in pair.events["a"]] == [Up]


def test_a_peer_that_wants_no_packets_gets_none() -> None:
    pair = Pair.make()
    pair.run(1)
    quiet = Packet(State.UP, 0, 3, 22, 11, 50_000, 0)
    pair.a.receive(quiet, pair.now)
    assert pair.a._tx_at == float("inf")


def test_the_table_is_the_rfcs() -> None:
    assert TABLE[State.DOWN, State.DOWN] is State.INIT
    assert (State.DOWN, State.UP) not in TABLE  # RFC 5880 6.2: Up is not reached from Down by Up
    assert (State.UP, State.INIT) not in TABLE


ECHO = Profile(receive_interval=0.3, transmit_interval=0.3, echo_interval=0.05, echo_mode=True)


def echoing() -> Pair:
    pair = Pair.make(ECHO, ECHO)
    for side in (pair.a, pair.b):
        side.set_echo(path=True, looped_here=True, now=0)
    return pair


def test_echo_packets_flow_while_both_want_them() -> None:
    pair = echoing()
    pair.run(10)
    assert 200 <= pair.a.echo.packets_out <= 270  # 50 ms, 75 to 100 % of it
    assert pair.a.echo.packets_in == pair.a.echo.packets_out
    assert pair.sent["a"][-1][1].required_min_echo_rx == 50_000
    assert [type(e) for _, e in pair.events["a"]] == [Up]


def test_control_packets_slow_down_while_echo_watches_the_path() -> None:
    """RFC 5880 section 6.8.3; and they are fast again before echo is missed."""
    pair = echoing()
    pair.run(2)
    assert pair.sent["a"][-1][1].required_min_rx == 1_000_000
    assert not pair.sent["a"][-1][1].poll
    pair.sent["a"].clear()
    pair.run(20)
    assert 20 <= len(pair.sent["a"]) <= 28
    assert pair.a.detection_time() == pytest.approx(3.0)
    pair.b.set_echo(path=False, looped_here=True, now=pair.now)
    pair.sent["a"].clear()
    pair.run(10)
    assert pair.sent["b"][-1][1].required_min_rx == 300_000, "its own echo is off"
    assert 33 <= len(pair.sent["a"]) <= 47
    assert pair.b.detection_time() == pytest.approx(0.9)
    pair.b.set_echo(path=True, looped_here=True, now=pair.now)
    pair.run(5)
    assert pair.b.echo.active
    assert pair.b.detection_time() == pytest.approx(3.0)
    assert [type(e) for _, e in pair.events["a"]] == [Up]
    assert [type(e) for _, e in pair.events["b"]] == [Up]
    pair.cut = True
    pair.loops = False
    start = pair.now
    pair.run(0.4)
    down = [(when, event) for when, event in pair.events["a"] if isinstance(event, Down)]
    assert down[0][1].diagnostic is Diagnostic.ECHO_FAILED
    assert down[0][0] - start <= 0.151


def test_lost_echoes_take_the_session_down_faster_than_control_packets_would() -> None:
    pair = echoing()
    pair.run(2)
    pair.loops = False
    start = pair.now
    pair.run(0.4)
    (when, event), (_, other) = sorted((pair.events[name][1] for name in "ab"), key=lambda entry: entry[0])
    assert Down(Diagnostic.ECHO_FAILED) in (event, other)
    assert 0.09 <= when - start <= 0.151


def test_a_node_that_does_not_forward_says_so_and_gets_no_echoes() -> None:
    pair = Pair.make(ECHO, ECHO)
    pair.a.set_echo(path=True, looped_here=False, now=0)
    pair.b.set_echo(path=True, looped_here=True, now=0)
    pair.run(2)
    assert pair.sent["a"][-1][1].required_min_echo_rx == 0
    assert pair.b.echo.packets_out == 0
    assert pair.a.echo.packets_out > 0
    pair.a.set_echo(path=True, looped_here=True, now=pair.now)
    pair.run(1)
    assert pair.b.echo.packets_out > 0, "a change is told to the peer while Up"
    pair.b.set_echo(path=False, looped_here=True, now=pair.now)
    before = pair.b.echo.packets_out
    pair.run(5)
    assert pair.b.echo.packets_out == before
    assert [type(e) for _, e in pair.events["b"]] == [Up]


def test_the_slower_echo_interval_of_both_holds() -> None:
    pair = Pair.make(ECHO, Profile(echo_interval=0.5, echo_mode=True))
    for side in (pair.a, pair.b):
        side.set_echo(path=True, looped_here=True, now=0)
    pair.run(20)
    assert 38 <= pair.a.echo.packets_out <= 56


def test_only_our_own_fresh_echoes_count() -> None:
    pair = echoing()
    pair.run(1)
    echo = pair.a.echo
    echo.on_deadline(pair.now + 1)
    (payload,) = echo.pending()
    assert not echo.returned(payload[:-1] + bytes((payload[-1] ^ 1,)), pair.now), "the secret is wrong"
    assert echo.returned(payload, pair.now)
    assert not echo.returned(payload, pair.now), "a replay proves nothing"
    assert not pair.b.echo.returned(payload, pair.now)


def test_lateness_is_counted_while_up() -> None:
    pair = Pair.make()
    pair.run(1)
    lateness = pair.a._lateness
    before = lateness.count
    pair.a.on_deadline(pair.a.deadline() + 0.012)
    assert lateness.count == before + 1
    assert lateness.longest == pytest.approx(0.012)


@given(
    st.lists(
        st.tuples(
            st.floats(0.001, 5),
            st.builds(
                Packet,
                state=st.sampled_from(State),
                diagnostic=st.integers(0, 8),
                detect_multiplier=st.integers(1, 255),
                my_discriminator=st.integers(1, 2**32 - 1),
                your_discriminator=st.just(11),
                desired_min_tx=st.integers(0, 2**32 - 1),
                required_min_rx=st.integers(0, 2**32 - 1),
                poll=st.booleans(),
                final=st.booleans(),
            ),
        ),
        max_size=30,
    )
)
def test_up_and_down_alternate_whatever_the_peer_sends(steps: list[tuple[float, Packet]]) -> None:
    session, now, events = Session(FAST, 11, 0.0, random.Random(3)), 0.0, []
    for wait, packet in steps:
        now += wait
        if now >= session.deadline():
            session.on_deadline(now)
        session.receive(packet, now)
        session.pending()
        events += session.events()
    kinds = [type(e) for e in events]
    assert kinds == [Up, Down] * (len(kinds) // 2) + [Up] * (len(kinds) % 2)


def told(state: State, *, mine: int = 500, yours: int = 11, rx: float = 0.05, tx: float = 0.05) -> Packet:
    return Packet(state, Diagnostic.NONE, 3, mine, yours, round(tx * 1e6), round(rx * 1e6))


def alone(session: Session, end: float) -> list[tuple[float, Packet]]:
    """What a session sends until then to a peer that is silent."""
    out: list[tuple[float, Packet]] = []
    while (now := session.deadline()) <= end:
        session.on_deadline(now)
        out += [(now, Packet.decode(raw)) for raw in session.pending()]
    return out


def up(profile: Profile = FAST) -> Session:
    session = Session(profile, 11, 0.0, random.Random(1))
    session.receive(told(State.DOWN, yours=0, tx=1.0), 0.1)
    session.receive(told(State.INIT, tx=1.0), 0.2)
    session.receive(told(State.UP), 0.3)
    assert session.state is State.UP
    session.pending()
    return session


def test_the_peers_discriminator_is_forgotten_in_down_too() -> None:
    """RFC 5880 section 6.8.1: a router that was shut down in order and made anew knows nothing of it."""
    session = up()
    session.receive(told(State.ADMIN_DOWN), 1.0)
    assert session.state is State.DOWN
    later = [packet for at, packet in alone(session, 30) if at > 1.2]
    assert {packet.your_discriminator for packet in later} == {0}
    assert len(later) > 20, "it goes on calling"
    assert session.diagnostic is Diagnostic.NEIGHBOR_DOWN, "why it went down is still told"


def test_a_session_that_is_passive_no_more_calls() -> None:
    passive = Profile(passive_mode=True)
    session = Session(passive, 11, 0.0, random.Random(1))
    assert session.deadline() == float("inf")
    session.set(Profile(), 10.0)
    assert session.deadline() == 10.0


def test_a_peer_that_never_wanted_packets_gets_none_on_any_occasion() -> None:
    """RFC 5880 section 6.8.7; and they come again when it wants some, or is not heard any more."""
    session = Session(FAST, 11, 0.0, random.Random(1))
    alone(session, 0)
    session.receive(told(State.DOWN, yours=0, rx=0, tx=1.0), 0.1)
    session.receive(told(State.INIT, rx=0, tx=1.0), 0.2)
    sent, now = 0, 0.2
    for _ in range(50):
        now += 0.2
        sent += len(alone(session, now))
        session.receive(told(State.UP, rx=0, tx=0.2), now)
    assert (session.state, sent) == (State.UP, 0)
    session.receive(told(State.UP, rx=0.05, tx=0.2), now)
    assert alone(session, now + 0.3)
    session.receive(told(State.UP, rx=0, tx=0.2), now + 0.3)
    assert alone(session, now + 10), "the peer is gone: it is called"


def test_the_end_is_said_more_than_once() -> None:
    session = up()
    session.shutdown(1.0)
    assert [Packet.decode(raw).state for raw in session.pending()] == [State.ADMIN_DOWN] * 3


def test_a_peer_in_demand_mode_gets_polls_and_no_periodic_packets() -> None:
    """RFC 5880 section 6.8.7."""
    session = Session(FAST, 5, 0.0, random.Random(1))

    def hears(state: State, now: float, **bits: bool) -> None:
        session.receive(Packet(state, 0, 3, 9, 5, 50_000, 50_000, **bits), now)  # type: ignore[arg-type]

    def sends(start: float, end: float) -> int:
        count, now = len(session.pending()), start
        while (now := max(now, session.deadline())) <= end:
            hears(session.state, now, demand=True)
            session.on_deadline(now)
            count += len(session.pending())
            now += 0.04
            hears(session.state, now, demand=True)
        return count

    hears(State.DOWN, 0.0)
    hears(State.UP, 0.1, demand=True)
    assert session.state is State.UP
    assert sends(0.1, 1.0) > 5, "its Poll is not answered yet"
    hears(State.UP, 1.0, demand=True, final=True)
    assert session.deadline() == pytest.approx(1.15), "that of detection alone"
    assert session.pending() == []
    hears(State.UP, 1.1, demand=True, poll=True)
    assert [Packet.decode(raw).final for raw in session.pending()] == [True]
    hears(State.UP, 1.1)
    session.on_deadline(1.2)
    assert len(session.pending()) == 1, "Demand mode is over"
    hears(State.UP, 1.2, demand=True)
    session.on_deadline(1.4)
    assert session.state is State.DOWN
    session.on_deadline(session.deadline())
    assert session.pending(), "of a session that is not up it hears"
