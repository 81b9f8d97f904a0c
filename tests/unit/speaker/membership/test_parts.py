"""The parts of membership, each by itself: watch, suspicion, gossip, ring, probe order, health, favours."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metallb_speaker.announcer.membership.gossip import Gossip
from metallb_speaker.announcer.membership.health import MAX_SCORE, Health
from metallb_speaker.announcer.membership.messages import Record, Status
from metallb_speaker.announcer.membership.probe import MAX_FAVOURS, Favours, Order
from metallb_speaker.announcer.membership.ring import neighbours
from metallb_speaker.announcer.membership.suspicion import Suspicion
from metallb_speaker.announcer.membership.timings import DEFAULT
from metallb_speaker.announcer.membership.watch import Act, Watch
from metallb_speaker.announcer.membership.wire import encode_message

CONFIRM = DEFAULT.confirm


def play(watch: Watch, start: float, end: float, signs: list[float] | None = None) -> list[tuple[float, Act]]:
    """Step the watch at its deadlines; what it asked for, and when, since `start`."""
    acts: list[tuple[float, Act]] = []
    now, heard = start, [*(signs or [])]
    while now <= end:
        sign = max([s for s in heard if s <= now], default=start)
        due = watch.deadline(sign, CONFIRM)
        upcoming = [s for s in heard if s > now]
        now = max(now + 1e-9, min([due, *upcoming]))
        if now > end:
            break
        sign = max([s for s in heard if s <= now], default=start)
        acts += [(round(now - start, 3), act) for act in watch.step(now, sign, CONFIRM)]
        if acts and acts[-1][1] is Act.FAIL:
            break
    return acts


def test_a_dead_neighbour_is_given_up_after_worry_and_confirm() -> None:
    acts = play(Watch(0.0, DEFAULT), 0.0, 5.0)
    assert acts[0] == (0.32, Act.PING)
    assert acts[-1] == (0.65, Act.FAIL)
    assert [a for _, a in acts].count(Act.PING) == 7
    assert [a for _, a in acts].count(Act.ASK) == 3
    assert (0.44, Act.SUSPECT) in acts


def test_any_sign_calms_it() -> None:
    acts = play(Watch(0.0, DEFAULT), 0.0, 0.7, [0.1, 0.5])
    assert acts == [(0.42, Act.PING), (0.47, Act.PING), (0.47, Act.ASK)]


def test_a_doubt_is_taken_back() -> None:
    acts = play(Watch(0.0, DEFAULT), 0.0, 0.75, [0.5])
    assert (0.44, Act.SUSPECT) in acts
    assert acts[-1] == (0.5, Act.CLEAR)


def test_a_watch_that_wakes_late_does_not_jump_to_the_end() -> None:
    watch = Watch(0.0, DEFAULT)
    assert watch.step(9.0, 0.0, CONFIRM) == [Act.PING]
    assert Act.FAIL not in watch.step(9.2, 0.0, CONFIRM)
    watch.shift(0.3)
    assert Act.FAIL not in watch.step(9.4, 0.0, CONFIRM)
    assert watch.step(9.64, 0.0, CONFIRM) == [Act.FAIL]


def test_suspicion_shrinks_with_each_independent_accuser() -> None:
    suspicion = Suspicion(1, "a", 50, DEFAULT, 0.0)
    ends = [suspicion.deadline()]
    for accuser in ("b", "b", "c", "d", "e"):
        suspicion.accuse(accuser)
        ends.append(suspicion.deadline())
    least = DEFAULT.suspicion_factor * DEFAULT.period * 1.69897
    assert ends[0] == pytest.approx(least * DEFAULT.suspicion_spread, rel=1e-4)
    assert ends == sorted(ends, reverse=True)
    assert ends[1] == ends[2] < ends[0]
    assert ends[-1] == pytest.approx(least, rel=1e-4)
    assert not suspicion.accuse("f"), "enough is enough: no more gossip about it"
    assert Suspicion(1, "a", 2, DEFAULT, 0.0).deadline() == pytest.approx(1.5), "nobody else could confirm"


def record(name: str, incarnation: int = 0) -> Record:
    return Record(name, Status.ALIVE, incarnation, 1)


def test_gossip_is_bounded_newest_first_and_replaced() -> None:
    gossip = Gossip(3)
    gossip.add(record("a"))
    gossip.add(record("a", 1))
    assert gossip.take(1000, 8, 3) == [encode_message(record("a", 1))]
    gossip.add(record("b"))
    assert gossip.take(1000, 1, 3) == [encode_message(record("b"))], "the least sent first"
    sent = 0
    while gossip:
        sent += len(gossip.take(1000, 8, 3))
    assert sent == 2 * 3 * 2 - 2, "3 * log2(3 + 1) times each"
    gossip.add(record("c"))
    assert gossip.take(5, 8, 3) == []
    assert gossip


@given(st.sets(st.integers(0, 10_000), min_size=2, max_size=60))
def test_the_ring_is_symmetric_and_bounded(numbers: set[int]) -> None:
    names = [f"node-{number}" for number in numbers]
    found = {name: neighbours(name, names, 4) for name in names}
    for name, near in found.items():
        assert len(near) == min(4, len(names) - 1)
        assert name not in near
        assert all(name in found[other] for other in near)


def test_the_order_visits_everybody_once_per_round() -> None:
    order = Order(random.Random(1))
    alive = {f"n{i}" for i in range(7)}
    rounds = [[order.next(alive) for _ in alive] for _ in range(3)]
    assert all(set(names) == alive for names in rounds)
    assert rounds[0] != rounds[1] or rounds[1] != rounds[2]
    assert Order(random.Random(1)).next(set()) == ""
    order.next(alive)
    order.add("new")
    assert "new" in [order.next(alive | {"new"}) for _ in range(7)]
    assert order.next({"n1"}) in ("n1",)


def test_health_saturates_and_recovers() -> None:
    health = Health()
    health.worse(50)
    assert health.score == MAX_SCORE
    assert health.stretch(1.0) == 1 + MAX_SCORE
    assert health.patience(1.0) == 3.0
    for _ in range(20):
        health.better()
    assert health.score == 0
    assert health.stretch(0.5) == health.patience(0.5) == 0.5


def test_favours_are_bounded_and_nacked_when_late() -> None:
    favours = Favours(DEFAULT)
    for number in range(MAX_FAVOURS + 5):
        favours.add(number, "r", number + 1000, 0.0)
    assert favours.answered(0) is None, "forgotten: its requester asked others, too"
    answered = favours.answered(100)
    assert answered is not None
    assert answered.sequence == 1100
    assert favours.due(0.05) == []
    assert len(favours.due(DEFAULT.timeout)) == MAX_FAVOURS - 1
    assert favours.deadline() == float("inf")
