"""Membership in virtual time where speakers do not hear each other, and some of them hold nothing."""

from __future__ import annotations

import pytest

from metallb_speaker.announcer.elect import rank
from metallb_speaker.announcer.membership.keys import NO_KEYS
from metallb_speaker.announcer.ownership import events as o
from tests.unit.speaker.simulator import Cluster, group
from tests.unit.speaker.steady import happened, moves, steady

IP = "192.0.2.1"
NAMES = ["node-0", "node-1", "node-2"]
FIRST, SECOND, THIRD = rank(NAMES, IP)


def listed(*, seed: int = 1) -> Cluster:
    """Without a key: one Service, so that two of the nodes hold nothing."""
    cluster = Cluster(3, seed=seed, keyring=NO_KEYS)
    cluster.groups = [group(IP, NAMES)]
    cluster.start()
    cluster.run(15)
    assert cluster.answering(IP) == [FIRST]
    cluster.forget_history()
    return cluster


def kept() -> Cluster:
    """UDP was blocked while they ran: whoever answers for something is kept."""
    cluster = steady(3, addresses=[IP])
    for node in cluster.nodes.values():
        node.silenced = True
    cluster.run(20)
    assert [(name, e.node) for _, name, e in happened(cluster, o.Kept)] == [  # type: ignore[union-attr]
        (name, FIRST) for name in sorted({SECOND, THIRD})
    ]
    cluster.forget_history()
    return cluster


@pytest.mark.parametrize("away", [0.2, 1.0, 2.7, 5.0, 20.0])
@pytest.mark.parametrize("how", ["deleted", "without endpoints"])
@pytest.mark.parametrize("begin", [listed, kept])
def test_a_node_whose_last_address_went_is_not_taken_for_dead(begin: object, how: str, away: float) -> None:
    cluster = begin()  # type: ignore[operator]
    cluster.set_groups([] if how == "deleted" else [group(IP, (), reason="noEndpoints")])
    cluster.run(away)
    cluster.set_groups([group(IP, NAMES)])
    cluster.run(0.02)
    cluster.forget_history()
    cluster.run(20)
    assert cluster.answering(IP) == [FIRST]
    assert moves(cluster) == set()
    assert max(cluster.gaps.values(), default=0) == 0
    assert max(cluster.doubles.values(), default=0) == 0


def test_a_node_whose_last_address_was_moved_away_gets_it_back_in_order() -> None:
    cluster = listed()
    cluster.set_groups([group(IP, NAMES, preferred=SECOND)])
    cluster.run(20)
    assert cluster.answering(IP) == [SECOND]
    cluster.set_groups([group(IP, NAMES)])
    cluster.run(20)
    assert cluster.answering(IP) == [FIRST]
    assert len(happened(cluster, o.Acquired)) == 2
    assert max(cluster.gaps.values(), default=0) <= 0.01
    assert max(cluster.doubles.values(), default=0) <= 1.0


@pytest.mark.parametrize(("begin", "most"), [(listed, 3.5), (kept, 1.5)])
def test_its_death_is_noticed_as_before_once_it_has_an_address_again(begin: object, most: float) -> None:
    cluster = begin()  # type: ignore[operator]
    cluster.set_groups([])
    cluster.run(5)
    cluster.set_groups([group(IP, NAMES)])
    cluster.run(5)
    cluster.forget_history()
    cluster.power_off(FIRST)
    cluster.run(8)
    assert cluster.answering(IP) == [SECOND]
    assert max(cluster.gaps.values()) <= most


def test_a_kept_node_that_died_while_it_held_nothing_is_found_out_by_what_it_gets() -> None:
    cluster = kept()
    cluster.set_groups([])
    cluster.run(5)
    cluster.power_off(FIRST)
    cluster.run(5)
    cluster.forget_history()
    cluster.set_groups([group(IP, NAMES)])
    cluster.run(0.01)
    assert cluster.answering(IP) == []
    cluster.run(20)
    assert cluster.answering(IP) == [SECOND]
    assert 0.5 < max(cluster.gaps.values()) <= 1.5


@pytest.mark.parametrize(("size", "most"), [(3, 1.5), (4, 1.5), (5, 1.5), (8, 3.0)])
def test_new_services_have_one_owner_within_seconds_whoever_held_nothing(size: int, most: float) -> None:
    """Of whom holds nothing nobody can tell whether it lives: several take what is new, and settle it on the wire."""
    cluster = steady(size, addresses=[IP])
    for node in cluster.nodes.values():
        node.silenced = True
    cluster.run(20)
    new = [group(f"198.51.100.{n}", cluster.nodes) for n in range(1, 11)]
    cluster.set_groups([*cluster.groups, *new])
    cluster.run(40)
    assert {len(cluster.answering(item.key)) for item in cluster.groups} == {1}
    assert max(cluster.doubles.values()) <= most
    assert max(cluster.gaps.values(), default=0) <= 0.01
    cluster.forget_history()
    cluster.run(120)
    assert moves(cluster) == set()


@pytest.mark.parametrize("size", [3, 5, 8])
def test_an_owners_power_goes_and_its_heirs_held_nothing(size: int) -> None:
    cluster = steady(size, addresses=[IP])
    for node in cluster.nodes.values():
        node.silenced = True
    cluster.run(20)
    cluster.power_off(cluster.answering(IP)[0])
    cluster.run(40)
    assert len(cluster.answering(IP)) == 1
    assert max(cluster.gaps.values()) <= 1.5
    assert max(cluster.doubles.values(), default=0) <= 1.5
