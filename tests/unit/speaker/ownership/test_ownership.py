"""Ownership by itself: the table, election by index against the plain rule, claims, the wire."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metallb_speaker.announcer.elect import rank
from metallb_speaker.announcer.membership import events as m
from metallb_speaker.announcer.membership.events import Standing, Tier
from metallb_speaker.announcer.membership.messages import Claim, Handover, Released
from metallb_speaker.announcer.ownership import Ownership
from metallb_speaker.announcer.ownership import events as o
from metallb_speaker.announcer.ownership.groups import Groups
from metallb_speaker.announcer.ownership.outbox import BATCH, Outbox
from metallb_speaker.announcer.ownership.states import (
    CLAIM_TRIES,
    MOVE_GRACE,
    MUTE_WAIT,
    TRANSITIONS,
    YIELD_WAIT,
    IllegalTransition,
    Input,
    State,
    step,
)
from metallb_speaker.announcer.ownership.wirecheck import KEEP_FOR, WAIT
from metallb_speaker.desired import AnnouncedAddress, Layer2Group
from tests.unit.speaker.ownership.told import (
    FIRST,
    IP,
    MACS,
    SECOND,
    THIRD,
    Members,
    follow,
    group,
    start,
)


def test_the_table_is_complete_and_enforced() -> None:
    for state, event in itertools.product(State, Input):
        if (state, event) in TRANSITIONS:
            assert step(state, event) in State
        else:
            with pytest.raises(IllegalTransition):
                step(state, event)
    missing = {pair for pair in itertools.product(State, Input) if pair not in TRANSITIONS}
    assert missing == {(State.IDLE, Input.DUE), (State.OWNED, Input.DUE)}, "those two states have no time limit"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([3, 12]))
def test_election_by_index_is_the_plain_rule(seed: int, size: int) -> None:
    """Incrementally, over changes at random, the believed winner is what a full election gives."""
    rng = random.Random(seed)
    nodes = [f"n{i}" for i in range(size)]
    tiers = dict.fromkeys(nodes, Tier.SETTLED)
    groups, winners = Groups(), {}

    def expected(item: Layer2Group) -> str:
        order = rank(item.candidates, item.key)
        if item.preferred in order:
            order.insert(0, item.preferred)
        living = [n for n in order if tiers[n] < Tier.SILENT]
        return min(living, key=lambda n: tiers[n], default="")

    for _ in range(30):
        if rng.random() < 0.5:
            ip = f"192.0.2.{rng.randint(1, 6)}"
            chosen = rng.sample(nodes, rng.randint(0, size))
            entry = groups.put(group(ip, chosen, preferred=rng.choice(["", *nodes])))
            winners[ip] = groups.elect(entry, tiers.__getitem__)
            groups.believe(entry, winners[ip])
        elif rng.random() < 0.2 and winners:
            ip = rng.choice(list(winners))
            groups.remove(ip)
            del winners[ip]
        else:
            node = rng.choice(nodes)
            tiers[node] = rng.choice(list(Tier))
            for key in groups.touched(node, tiers.__getitem__):
                winners[key] = groups.elect(groups.entries[key], tiers.__getitem__)
                groups.believe(groups.entries[key], winners[key])
        assert winners == {key: expected(entry.group) for key, entry in groups.entries.items()}
        for node in nodes:
            assert set(groups.owned_by(node)) == {key for key, winner in winners.items() if winner == node}


def test_the_first_owns_it_and_the_others_do_not() -> None:
    for me in (FIRST, SECOND, THIRD):
        ownership, _ = start(me)
        assert list(ownership.owned()) == ([IP] if me == FIRST else [])
        assert ownership.owner(IP) == FIRST


def test_nothing_is_owned_before_membership_is_ready() -> None:
    members, ownership = Members(FIRST, **{FIRST: Tier.SETTLED}), Ownership(FIRST, 0.0)
    members.ready = False
    ownership.replace([group(candidates=[FIRST])], 0.0)
    assert follow(ownership, members, 0.0) == []
    members.ready = True
    assert follow(ownership, members, 1.0) == [o.Acquired(IP)]
    members.ready = False
    members.queue.append(m.Stopped(2.0))
    assert follow(ownership, members, 3.0) == [o.Lost(IP, "notOwner", "stopped")]


def test_a_dead_owner_is_asked_for_on_the_wire_and_replaced() -> None:
    ownership, members = start(SECOND)
    members.queue.append(m.Suspect(FIRST))
    assert follow(ownership, members, 1.0) == [o.Probe(IP, WAIT)]
    ownership.probe_result(IP, (), 1.05)
    members.tier(FIRST, Tier.SILENT, m.Failed(FIRST))
    assert follow(ownership, members, 1.2) == [o.Acquired(IP, FIRST)], "the wire was asked in time: no waiting"
    assert ownership.owned()[IP].check
    assert members.take_sent() == []


def test_without_a_suspicion_before_the_wire_costs_some_tens_of_milliseconds() -> None:
    ownership, members = start(SECOND)
    members.tier(FIRST, Tier.SILENT, m.Failed(FIRST))
    assert follow(ownership, members, 1.0) == [o.Probe(IP, WAIT)]
    assert ownership.deadline() == pytest.approx(1.05)
    assert follow(ownership, members, ownership.deadline()) == [o.Acquired(IP, FIRST)]


@pytest.mark.parametrize(("mac", "kept"), [(MACS[FIRST], True), (MACS[THIRD], False), ("0a:00:00:00:00:99", False)])
def test_only_the_old_owners_mac_keeps_it(mac: str, kept: bool) -> None:
    ownership, members = start(SECOND)
    members.queue.append(m.Suspect(FIRST))
    follow(ownership, members, 1.0)
    ownership.probe_result(IP, (mac,), 1.01)
    members.tier(FIRST, Tier.SILENT, m.Failed(FIRST))
    expected = [o.Kept(FIRST, IP, mac)] if kept else [o.Acquired(IP, FIRST)]
    assert [e for e in follow(ownership, members, 1.2) if not isinstance(e, o.Probe)] == expected


def test_an_owner_that_is_kept_and_dies_on_the_wire_is_replaced_and_one_that_speaks_again_is_not() -> None:
    for dies in (True, False):
        ownership, members = start(SECOND)
        members.queue.append(m.Suspect(FIRST))
        follow(ownership, members, 1.0)
        ownership.probe_result(IP, (MACS[FIRST],), 1.01)
        members.tier(FIRST, Tier.SILENT, m.Failed(FIRST))
        follow(ownership, members, 1.2)
        now, happened = 1.2, []
        while now < 4:
            now += 0.05
            for event in follow(ownership, members, now):
                if isinstance(event, o.Probe):
                    ownership.probe_result(event.address, () if dies else (MACS[FIRST],), now)
                else:
                    happened.append((now, event))
        if dies:
            assert [event for _, event in happened] == [o.KeptEnded(FIRST), o.Acquired(IP, FIRST)]
            assert happened[0][0] <= 1.3 + KEEP_FOR
        else:
            assert happened == []
            members.tier(FIRST, Tier.SETTLED, m.Joined(FIRST))
            assert follow(ownership, members, now) == [o.KeptEnded(FIRST)]
            assert ownership.owner(IP) == FIRST


def test_a_returner_answers_first_claims_and_only_then_the_other_falls_silent() -> None:
    back, view = start(FIRST, **{FIRST: Tier.NEW})
    holder, other = start(SECOND, **{FIRST: Tier.NEW})
    assert not back.owned()
    assert holder.owned()
    for members in (view, other):
        members.tier(FIRST, Tier.SETTLED, m.Changed(FIRST))
    assert follow(back, view, 10.0) == []
    assert back.deadline() == 10.0 + MOVE_GRACE
    assert follow(back, view, 10.3) == [o.Acquired(IP, SECOND)]
    assert not back.owned()[IP].check, "it is known who answers: no duplicate address check"
    assert view.take_sent() == [(SECOND, Claim(6, (IP,)))]
    assert follow(holder, other, 10.31) == []
    assert holder.owned(), "replaced, but nobody has said that he answers"
    assert other.take_sent() == [(FIRST, Handover((IP,)))]
    other.queue.append(m.Received(FIRST, Claim(6, (IP,))))
    assert follow(holder, other, 10.32) == [o.Lost(IP, "notOwner", "claimed")]
    assert other.take_sent() == [(FIRST, Released((IP,)))]
    view.queue.append(m.Received(SECOND, Released((IP,))))
    follow(back, view, 10.33)
    assert follow(back, view, 20.0) == []
    assert view.take_sent() == [], "an answered claim is not repeated"


def test_an_offer_is_taken_at_once() -> None:
    back, view = start(FIRST, **{FIRST: Tier.NEW})
    view.tier(FIRST, Tier.SETTLED, m.Changed(FIRST))
    follow(back, view, 10.0)
    view.queue.append(m.Received(SECOND, Handover((IP,))))
    assert follow(back, view, 10.01) == [o.Acquired(IP, SECOND)]


def test_a_successor_that_says_nothing_is_waited_for_and_one_that_says_no_for_longer() -> None:
    holder, members = start(SECOND, **{FIRST: Tier.NEW})
    members.tier(FIRST, Tier.SETTLED, m.Changed(FIRST))
    follow(holder, members, 10.0)
    members.queue.append(m.Received(FIRST, Released((IP,))))
    assert follow(holder, members, 11.5) == []
    assert follow(holder, members, 10.0 + YIELD_WAIT + 0.1) == [], "the successor lives and does not answer: we must"
    assert follow(holder, members, 11.5 + YIELD_WAIT) == [o.Lost(IP, "notOwner", "timeout")]


def test_a_successor_that_cannot_speak_is_believed_by_its_frame_or_after_half_a_second() -> None:
    for frame in (True, False):
        holder, members = start(SECOND, **{FIRST: Tier.SILENT})
        members.standings[FIRST] = Standing(FIRST, Tier.SETTLED, cluster_only=True)
        members.queue.append(m.Joined(FIRST))
        follow(holder, members, 1.0)
        if frame:
            holder.foreign_claim(IP, "0a:00:00:00:00:99", 1.1)
            assert holder.events() == [o.Lost(IP, "notOwner", "claimed")]
        else:
            assert holder.deadline() <= 1.0 + MUTE_WAIT
            lost = [e for e in follow(holder, members, 1.0 + MUTE_WAIT) if isinstance(e, o.Lost)]
            assert lost == [o.Lost(IP, "notOwner", "timeout")]


def test_the_owner_of_what_was_there_before_us_is_presumed_and_told() -> None:
    """A speaker that has just become ready takes nothing from a live one without a word."""
    members, newcomer = Members(FIRST, n1=Tier.SETTLED, n2=Tier.SETTLED, n3=Tier.SETTLED), Ownership(FIRST, 0.0)
    members.ready = False
    newcomer.replace([group()], 0.0)
    follow(newcomer, members, 0.0)
    members.ready = True
    assert follow(newcomer, members, 1.0) == []
    assert not newcomer.owned()
    assert newcomer.owner(IP) == SECOND
    assert follow(newcomer, members, 1.0 + MOVE_GRACE) == [o.Acquired(IP, SECOND)]
    assert members.take_sent() == [(SECOND, Claim(5, (IP,)))], "so that it falls silent within a round trip"


def test_groups_of_the_first_snapshot_are_presumed_owned_and_later_ones_are_not() -> None:
    members, newcomer = Members(FIRST, n1=Tier.SETTLED, n2=Tier.SETTLED, n3=Tier.SETTLED), Ownership(FIRST, 0.0)
    follow(newcomer, members, 0.0)
    newcomer.upsert(group(), 1.0)
    assert newcomer.owner(IP) == SECOND
    newcomer.complete(1.0)
    mine = next(ip for ip in (f"198.51.100.{n}" for n in range(250)) if rank(["n1", "n2", "n3"], ip)[0] == FIRST)
    newcomer.upsert(group(mine), 1.1)
    assert set(newcomer.owned()) == {mine}, "a new Service is nobody's yet: no need to wait"


def test_leaving_waits_for_the_successors_and_owns_nothing_afterwards() -> None:
    leaver, members = start(FIRST)
    leaver.upsert(group("192.0.2.2", [FIRST]), 0.0)
    leaver.events()
    leaver.leave(1.0)
    members.tier(FIRST, Tier.LEAVING, m.Changed(FIRST))
    assert follow(leaver, members, 1.0) == []
    assert set(leaver.owned()) == {IP, "192.0.2.2"}
    members.queue.append(m.Received(SECOND, Claim(7, (IP,))))
    assert follow(leaver, members, 1.1) == [
        o.Lost(IP, "notOwner", "claimed"),
        o.Lost("192.0.2.2", "notOwner", "left"),
        o.HandedOver(()),
    ]
    leaver.upsert(group("192.0.2.3", [FIRST]), 1.2)
    follow(leaver, members, 1.3)
    assert not leaver.owned()


def test_leaving_ends_without_an_answer() -> None:
    leaver, members = start(FIRST)
    leaver.leave(1.0)
    members.tier(FIRST, Tier.LEAVING, m.Changed(FIRST))
    follow(leaver, members, 1.0)
    assert leaver.owned()
    assert follow(leaver, members, 2.0) == [o.Lost(IP, "notOwner", "left"), o.HandedOver((IP,))]
    assert not leaver.owned()


def test_leaving_can_be_taken_back() -> None:
    leaver, members = start(FIRST)
    leaver.leave(1.0)
    members.tier(FIRST, Tier.LEAVING, m.Changed(FIRST))
    follow(leaver, members, 1.0)
    leaver.stay(1.1)
    members.tier(FIRST, Tier.SETTLED, m.Changed(FIRST))
    assert follow(leaver, members, 1.2) == []
    assert follow(leaver, members, 9.0) == []
    assert set(leaver.owned()) == {IP}


def test_changed_addresses_of_an_owned_group() -> None:
    owner, members = start(FIRST)
    follow(owner, members, 1.0)
    addresses = (AnnouncedAddress(IP, ("d/s",)), AnnouncedAddress("2001:db8::1", ("d/s",)))
    owner.upsert(Layer2Group(IP, addresses, ("n1", "n2", "n3"), interfaces=("eth*",)), 2.0)
    assert owner.events() == [o.Updated(IP)]
    assert owner.owned()[IP].addresses == (IP, "2001:db8::1")
    assert owner.owned()[IP].interfaces == ("eth*",)
    owner.upsert(Layer2Group(IP, addresses, ("n1", "n2", "n3"), interfaces=("eth*",)), 2.0)
    assert owner.events() == []
    owner.remove(IP, 3.0)
    owner.remove(IP, 3.0)
    assert owner.events() == [o.Lost(IP, "serviceDeleted", "removed")]


def test_the_outbox_batches_repeats_and_ends() -> None:
    outbox = Outbox()
    keys = [f"10.0.{i // 250}.{i % 250}" for i in range(BATCH * 2 + 1)]
    for key in keys:
        outbox.claim("n1", key, 0.0)
    sent = outbox.flush(3, 0.0)
    assert [len(out.message.keys) for out in sent] == [BATCH, BATCH, 1]
    assert outbox.flush(3, 0.01) == []
    outbox.claim("n1", "192.0.2.1", 0.02)
    assert [out.message for out in outbox.flush(3, 0.02)] == [Claim(3, ("192.0.2.1",))], "what is new alone"
    for key in keys:
        outbox.answered("n1", key)
    now, count = 0.02, 0
    while outbox.deadline() < 60:
        now = max(now, outbox.deadline())
        count += len(outbox.flush(4, now))
    assert count == CLAIM_TRIES - 1


def test_five_thousand_groups_are_elected_quickly_and_a_loss_touches_only_its_own() -> None:
    """Bounds far above what is needed, so that a quadratic mistake shows on any machine."""
    import time

    members, ownership = Members(FIRST, n1=Tier.SETTLED, n2=Tier.SETTLED, n3=Tier.SETTLED), Ownership(FIRST, 0.0)
    ownership.follow(members, 0.0)  # type: ignore[arg-type]
    begin = time.process_time()
    ownership.replace([group(f"10.0.{i // 250}.{i % 250}") for i in range(5000)], 0.0)
    loaded = time.process_time() - begin
    before = set(ownership.owned())
    ownership.events()
    members.tier(SECOND, Tier.SILENT, m.Failed(SECOND))
    begin = time.process_time()
    follow(ownership, members, 1.0)
    follow(ownership, members, 1.1)
    moved = time.process_time() - begin
    assert len(before) < len(ownership.owned())
    assert before < set(ownership.owned())
    assert loaded < 2.0
    assert moved < 1.0
