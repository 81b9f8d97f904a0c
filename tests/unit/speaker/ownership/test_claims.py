"""Two who both own a group: claims by message, frames on the wire."""

from __future__ import annotations

import pytest

from metallb_speaker.announcer.membership import events as m
from metallb_speaker.announcer.membership.events import Standing, Tier
from metallb_speaker.announcer.membership.messages import Claim
from metallb_speaker.announcer.ownership import events as o
from metallb_speaker.announcer.ownership.states import (
    HOLD,
    MOVE_GRACE,
    RETURN_WAIT,
)
from metallb_speaker.announcer.ownership.wirecheck import KEEP_FOR, LISTED_EVERY, LISTED_FOR
from tests.unit.speaker.ownership.told import (
    FIRST,
    IP,
    MACS,
    SECOND,
    THIRD,
    cut_off,
    follow,
    heir,
    start,
)


@pytest.mark.parametrize("known", [(MACS[FIRST],), ()])
def test_the_frame_of_a_successor_that_is_not_heard_proves_that_it_lives(known: tuple[str, ...]) -> None:
    """So it is missed on the wire when it dies at once, before it was asked for anything."""
    owner, members = start(SECOND)
    members.tier(FIRST, Tier.SILENT, m.Left(FIRST))
    follow(owner, members, 0.5)
    assert owner.owned().keys() == {IP}
    members.standings[FIRST] = Standing(FIRST, Tier.SETTLED, cluster_only=True, macs=known)
    members.queue.append(m.Changed(FIRST))
    follow(owner, members, 1.0)
    owner.foreign_claim(IP, MACS[FIRST], 1.1)
    assert o.Lost(IP, "notOwner", "claimed") in follow(owner, members, 1.1)
    now, taken = 1.1, []
    while now < 1.2 + LISTED_FOR + LISTED_EVERY:  # asked again and again, it never answers
        now += 0.05
        taken += [event for event in follow(owner, members, now) if isinstance(event, o.Acquired)]
    assert [event.key for event in taken] == [IP]


def test_a_newer_claim_wins_an_older_one_is_answered_by_ours() -> None:
    owner, members = start(FIRST)
    members.queue.append(m.Received(SECOND, Claim(4, (IP,))))
    assert follow(owner, members, 1.0) == [o.SplitBrain(IP, SECOND, yielded=False)]
    assert members.take_sent() == [(SECOND, Claim(5, (IP,)))]
    members.generation = 6
    members.queue.append(m.Received(SECOND, Claim(6, (IP,))))
    assert follow(owner, members, 2.0) == [
        o.SplitBrain(IP, SECOND, yielded=True),
        o.Lost(IP, "notOwner", "claimed"),
    ]
    assert follow(owner, members, 2.0 + HOLD - 0.1) == [], "although our view still elects us"
    follow(owner, members, 2.0 + HOLD)
    assert follow(owner, members, 2.1 + HOLD + MOVE_GRACE) == [o.Acquired(IP, SECOND)]


def test_of_two_claims_of_one_view_the_elections_order_wins() -> None:
    for me, other, yields in ((FIRST, SECOND, False), (SECOND, FIRST, True)):
        owner, members = start(me, **{other: Tier.NEW})
        assert owner.owned()
        members.standings[other] = Standing(other, Tier.SETTLED, macs=(MACS[other],))
        members.queue.append(m.Received(other, Claim(5, (IP,))))
        assert o.SplitBrain(IP, other, yields) in follow(owner, members, 1.0)
        assert bool(owner.owned()) is not yields


def test_claims_make_no_storm() -> None:
    owner, members = start(FIRST)
    for i in range(100):
        members.queue.append(m.Received(SECOND, Claim(4, (IP,))))
        follow(owner, members, 1.0 + i / 1000)
    assert len(members.take_sent()) <= 3


def test_a_foreign_frame_is_contradicted_by_the_rightful_owner_and_obeyed_by_the_other() -> None:
    owner, members = start(FIRST)
    owner.foreign_claim(IP, MACS[SECOND], 1.0)
    owner.foreign_claim(IP, MACS[SECOND], 1.01)
    assert owner.events() == [o.SplitBrain(IP, SECOND, yielded=False), o.Reassert(IP, SECOND)]
    follow(owner, members, 1.02)
    assert members.take_sent() == [(SECOND, Claim(5, (IP,)))]

    # What no member sent, and what we do not own, is nobody's business here.
    owner.foreign_claim(IP, "0a:00:00:00:00:99", 3.0)
    owner.foreign_claim("203.0.113.1", MACS[SECOND], 3.0)
    assert owner.events() == []


def test_an_heir_does_not_yield_to_a_stale_owner_on_the_wire_and_calls_it() -> None:
    successor, members = heir()
    successor.foreign_claim(IP, MACS[FIRST], 2.0)
    assert follow(successor, members, 2.0) == [o.SplitBrain(IP, FIRST, yielded=False), o.Reassert(IP, FIRST)]
    assert members.called == [FIRST], "by UDP it learns at once that it was replaced"
    assert members.take_sent() == []
    successor.foreign_claim(IP, MACS[FIRST], 2.1)
    assert follow(successor, members, 2.1) == [], "no storm"
    assert set(successor.owned()) == {IP}


def test_an_heir_does_not_yield_to_a_claim_of_a_stale_owner_whatever_its_generation() -> None:
    """Cut off alone it gave up everybody: its generation has grown by more than ours."""
    successor, members = heir()
    members.queue.append(m.Received(FIRST, Claim(99, (IP,))))
    assert follow(successor, members, 2.0) == [o.SplitBrain(IP, FIRST, yielded=False)]
    assert (FIRST, Claim(6, (IP,))) in members.take_sent()
    assert members.called == [FIRST]
    assert set(successor.owned()) == {IP}


def test_a_stale_owner_yields_to_a_frame_of_its_heir_and_waits() -> None:
    stale, members = cut_off()
    stale.foreign_claim(IP, MACS[SECOND], 5.0)
    events = follow(stale, members, 5.0)
    assert o.Lost(IP, "notOwner", "claimed") in events
    assert o.Kept(SECOND, IP, MACS[SECOND]) in events, "it lives: its other addresses are not ours, either"
    assert members.called == [SECOND]
    assert IP not in stale.owned()
    assert stale.owner(IP) == SECOND
    now = 5.0
    while now < 5.0 + RETURN_WAIT - 0.2:
        now += 0.1
        stale.probe_result(IP, [MACS[SECOND]], now)
        follow(stale, members, now)
        assert IP not in stale.owned()


def test_a_stale_owner_takes_back_what_its_heir_does_not_answer_for() -> None:
    stale, members = cut_off()
    stale.foreign_claim(IP, MACS[SECOND], 5.0)
    now = 5.0
    while IP not in stale.owned():
        now += 0.05
        follow(stale, members, now)
        assert now < 5.0 + KEEP_FOR + 0.3


def test_two_who_hear_each_other_only_on_the_wire_end_by_the_order_of_election() -> None:
    """Each is sure that the other is stale: nobody was cut off by its own impression."""
    for me, other, yields in ((FIRST, SECOND, False), (SECOND, FIRST, True)):
        machine, members = start(me, **{other: Tier.SILENT})
        follow(machine, members, 0.1)
        assert machine.owned()
        now = 1.0
        while now < 3.0:
            machine.foreign_claim(IP, MACS[other], now)
            machine.probe_result(IP, [MACS[other]], now)
            follow(machine, members, now)
            now += 0.1
        assert bool(machine.owned()) is not yields


@pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST)])
def test_of_several_on_the_wire_it_goes_to_the_one_that_the_others_leave_it_to(order: tuple[str, str]) -> None:
    """Not to one that then falls silent for the first of them: that would look like its death."""
    machine, members = start(THIRD, **{FIRST: Tier.SILENT, SECOND: Tier.SILENT})
    follow(machine, members, 0.1)
    assert machine.owned()
    now = 1.0
    while machine.owned():
        for other in order:
            machine.foreign_claim(IP, MACS[other], now)
        happened = follow(machine, members, now)
        now += 0.1
        assert now < 2.0, "each contest grows old by itself"
    assert o.Kept(FIRST, IP, MACS[FIRST]) in happened
    assert machine.owner(IP) == FIRST
