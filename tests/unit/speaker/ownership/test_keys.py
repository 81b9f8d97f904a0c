"""A group gets another key, or its addresses come from several groups: each is handed over in order all the same."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from metallb_speaker.announcer.elect import rank
from metallb_speaker.announcer.membership import events as m
from metallb_speaker.announcer.membership.events import Tier
from metallb_speaker.announcer.membership.messages import Claim, Handover, Released
from metallb_speaker.announcer.ownership import events as o
from metallb_speaker.announcer.ownership.states import MOVE_GRACE
from metallb_speaker.desired import AnnouncedAddress, Layer2Group
from tests.unit.speaker.ownership.told import FIRST, IP, SECOND, THIRD, follow, start
from tests.unit.speaker.simulator import Cluster, Node

NODES = ("node-0", "node-1", "node-2")
#: A dual-stack Service, and one that shares its IPv6 address, such that they go to different nodes by themselves.
V4, V6 = next(
    (f"192.0.2.{n}", f"fd00::{n:x}")
    for n in range(5, 60)
    if rank(NODES, f"192.0.2.{n}")[0] != rank(NODES, f"fd00::{n:x}")[0]
)
BY_V4, BY_V6 = rank(NODES, V4)[0], rank(NODES, V6)[0]


def holding(*ips: str, candidates: Iterable[str] = NODES) -> Layer2Group:
    return Layer2Group(ips[0], tuple(AnnouncedAddress(ip, ("d/s",)) for ip in ips), tuple(candidates))


ONE, BOTH = holding(V6), holding(V4, V6)


def settled(seed: int, *groups: Layer2Group, loss: float = 0.0) -> Cluster:
    cluster = Cluster(3, seed=seed, loss=loss)
    cluster.groups = list(groups)
    cluster.start()
    cluster.run(15)
    cluster.forget_history()
    return cluster


@pytest.mark.parametrize(("before", "after"), [(ONE, BOTH), (BOTH, ONE)], ids=["joins", "parts"])
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_an_address_whose_group_gets_another_key_is_handed_over_in_order(
    before: Layer2Group, after: Layer2Group, loss: float
) -> None:
    for seed in range(8):
        cluster = settled(seed, before, loss=loss)
        old, new = cluster.answering(V6), rank(NODES, after.key)[0]
        assert old == [rank(NODES, before.key)[0]]
        cluster.set_groups([after])
        cluster.run(4)
        assert cluster.answering(V6) == cluster.answering(after.key) == [new]
        assert cluster.gaps.get(V6, 0.0) == 0.0, "its old owner answers until the new one does"
        assert cluster.doubles.get(V6, 0.0) <= (0.003 if not loss else 0.5)
        assert o.Lost(after.key, "notOwner", "claimed") in [event for _, event in cluster.nodes[old[0]].happened]


@pytest.mark.parametrize(("before", "after"), [(ONE, BOTH), (BOTH, ONE)], ids=["joins", "parts"])
def test_one_that_has_not_heard_of_the_change_does_not_answer_beside_the_other(
    before: Layer2Group, after: Layer2Group
) -> None:
    cluster = settled(1, before)
    late = rank(NODES, before.key)[0]

    def tell(node: Node) -> None:
        node.ownership.complete(cluster.now)
        node.ownership.replace([after], cluster.now)
        cluster.turn(node)

    cluster.groups = [after]
    for name in NODES:
        if name != late:
            tell(cluster.nodes[name])
    cluster.run(1)
    for _ in range(200):
        cluster.run(0.1)
        assert len(cluster.answering(V6)) == 1
        assert len(cluster.answering(V4)) == 1, "the group that has more addresses goes before"
    assert cluster.gaps.get(V6, 0.0) == 0.0
    assert cluster.doubles.get(V6, 0.0) <= 0.005
    said = [event for node in cluster.nodes.values() for _, event in node.happened if isinstance(event, o.SplitBrain)]
    assert len(said) <= 40, "asked more and more seldom"
    tell(cluster.nodes[late])
    cluster.run(70)  # the longest hold
    assert cluster.answering(after.key) == cluster.answering(V6) == [rank(NODES, after.key)[0]]
    assert cluster.gaps.get(V6, 0.0) == 0.0
    assert cluster.doubles.get(V6, 0.0) <= 0.005


def test_what_parts_from_a_group_that_goes_on_is_moved_in_order_whichever_comes_first() -> None:
    other = next(ip for ip in (f"198.51.100.{n}" for n in range(250)) if rank(["n1", "n2", "n3"], ip)[0] == SECOND)
    nodes = ("n1", "n2", "n3")
    for order in (1, -1):
        owner, members = start(FIRST)
        owner.upsert(holding(IP, other, candidates=nodes), 1.0)
        owner.complete(1.0)
        follow(owner, members, 1.0)
        for part in (holding(IP, candidates=nodes), holding(other, candidates=nodes))[::order]:
            owner.upsert(part, 2.0)
        owner.complete(2.0)
        follow(owner, members, 2.0)
        assert set(owner.owned()) == {IP, other}
        assert (SECOND, Handover((other,))) in members.take_sent()
        members.queue.append(m.Received(SECOND, Claim(5, (other,))))
        assert o.Lost(other, "notOwner", "claimed") in follow(owner, members, 2.1)
        assert set(owner.owned()) == {IP}


def test_an_address_that_was_in_no_group_for_a_whole_change_has_no_owner() -> None:
    owner, members = start(FIRST)
    owner.remove(IP, 1.0)
    owner.complete(1.0)
    owner.upsert(holding("10.0.0.1", IP, candidates=(SECOND, THIRD)), 2.0)
    owner.complete(2.0)
    follow(owner, members, 2.0)
    assert owner.owned() == {}


def test_the_heir_claims_the_address_under_its_old_key_too() -> None:
    owner, members = start(SECOND)
    key = next(ip for ip in (f"10.0.0.{n}" for n in range(250)) if rank(["n1", "n2", "n3"], ip)[0] == SECOND)
    owner.upsert(holding(key, IP, candidates=("n1", "n2", "n3")), 1.0)
    owner.remove(IP, 1.0)
    owner.complete(1.0)
    assert follow(owner, members, 1.0) == []
    taken = []
    for now in (1.0 + MOVE_GRACE, 1.01 + MOVE_GRACE):
        taken += follow(owner, members, now)
    assert taken == [o.Acquired(key, FIRST)]
    assert not owner.owned()[key].check, "its old owner, which answers still, is no foreign host"
    assert members.take_sent() == [(FIRST, Claim(5, (key,))), (FIRST, Claim(6, (IP,)))]
    assert owner.key_of(IP) == owner.key_of(key) == key
    # One of the version before answers by the names that it was asked by, and claims by the key that it knows.
    members.queue.append(m.Received(FIRST, Released((key,))))
    members.queue.append(m.Received(FIRST, Claim(5, (IP,))))
    assert follow(owner, members, 2.0) == [o.SplitBrain(key, FIRST, yielded=False)]
    assert (FIRST, Claim(6, (IP,))) in members.take_sent()


def test_a_dead_owners_address_is_taken_under_its_new_key_at_once() -> None:
    owner, members = start(SECOND)
    key = next(ip for ip in (f"10.0.0.{n}" for n in range(250)) if rank(["n1", "n2", "n3"], ip)[0] == SECOND)
    members.tier(FIRST, Tier.SILENT, m.Left(FIRST))
    owner.upsert(holding(key, IP, candidates=("n1", "n2", "n3")), 1.0)
    owner.remove(IP, 1.0)
    owner.complete(1.0)
    assert o.Acquired(key, FIRST) in follow(owner, members, 1.0)


def test_an_address_that_has_left_the_group_again_is_claimed_no_more() -> None:
    owner, members = start(SECOND)
    key = next(ip for ip in (f"10.0.0.{n}" for n in range(250)) if rank(["n1", "n2", "n3"], ip)[0] == SECOND)
    owner.upsert(holding(key, IP, candidates=("n1", "n2", "n3")), 1.0)
    owner.remove(IP, 1.0)
    owner.complete(1.0)
    owner.upsert(holding(key, candidates=("n1", "n2", "n3")), 1.1)
    owner.upsert(holding(IP, candidates=("n1", "n2", "n3")), 1.1)
    owner.complete(1.1)
    for now in (1.1, 1.0 + MOVE_GRACE, 1.01 + MOVE_GRACE):
        follow(owner, members, now)
    assert set(owner.owned()) == {key}
    assert [message for _, message in members.take_sent()] == [Claim(5, (key,))]


def test_an_address_that_an_owned_group_gets_is_claimed_from_who_had_it() -> None:
    owner, members = start(FIRST)
    other = next(ip for ip in (f"198.51.100.{n}" for n in range(250)) if rank(["n1", "n2", "n3"], ip)[0] == SECOND)
    owner.upsert(holding(other, candidates=("n1", "n2", "n3")), 1.0)
    owner.complete(1.0)
    follow(owner, members, 1.0)
    owner.upsert(holding(IP, other, candidates=("n1", "n2", "n3")), 2.0)
    owner.remove(other, 2.0)
    owner.complete(2.0)
    assert follow(owner, members, 2.0) == [o.Updated(IP)]
    assert members.take_sent() == [(SECOND, Claim(6, (other,)))]
