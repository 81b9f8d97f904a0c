"""Which prefixes a node tells of when its cables come and go: the rule, and what follows from it in a cluster."""

from __future__ import annotations

import pytest

from metallb_speaker.announcer.layer2 import api
from metallb_speaker.announcer.reach import EVERY, NEVER, SETTLE, TIMES, Reach
from tests.unit.speaker.announcers import IP, NODES, Node, Sim, group

PREFIXES = ("10.8.0.0/24", "10.9.0.0/24")
DARK = ("10.9.0.0/24",)
LIT = ("10.8.0.0/24",)


def run(reach: Reach, start: float, seconds: float, *, heard: bool = True) -> float:
    now = start
    while reach.deadline() <= start + seconds:
        now = max(now, reach.deadline())
        reach.turn(now, heard=heard)
    return start + seconds


def test_what_is_dark_is_withdrawn_while_others_are_heard_and_told_again_when_it_has_settled() -> None:
    reach = Reach()
    reach.set(PREFIXES, (), 0.0)
    assert (reach.told(), reach.deadline()) == (PREFIXES, NEVER)
    reach.set(PREFIXES, DARK, 0.0)
    now = run(reach, 0.0, EVERY * TIMES - 0.01)
    assert reach.told() == PREFIXES
    now = run(reach, now, 0.01)
    assert reach.told() == LIT
    assert reach.deadline() == NEVER
    reach.set(PREFIXES, (), now)
    now = run(reach, now, SETTLE / 2)
    reach.set(PREFIXES, DARK, now)  # a bad cable
    reach.set(PREFIXES, (), now)
    now = run(reach, now, SETTLE - 0.1)
    assert reach.told() == LIT
    run(reach, now, 0.1)
    assert reach.told() == PREFIXES
    assert reach.deadline() == NEVER


def test_who_is_not_heard_says_nothing() -> None:
    reach = Reach()
    reach.set(PREFIXES, DARK, 0.0)
    now = run(reach, 0.0, 60.0, heard=False)
    assert reach.told() == PREFIXES
    now = run(reach, now, EVERY * (TIMES - 1))  # what came in with the cable is ahead of netlink
    reach.set(PREFIXES, (), now)
    assert reach.told() == PREFIXES
    assert reach.deadline() == NEVER


def test_a_route_that_goes_is_forgotten() -> None:
    reach = Reach()
    reach.set(PREFIXES, DARK, 0.0)
    now = run(reach, 0.0, 5.0)
    reach.set(LIT, (), now)
    assert (reach.told(), reach.deadline()) == (LIT, NEVER)
    reach.set(PREFIXES, (), now)
    assert reach.told() == PREFIXES


def test_a_cable_that_goes_and_comes_at_once_changes_nothing() -> None:
    reach, now = Reach(), 0.0
    for _ in range(50):
        reach.set(PREFIXES, DARK, now)
        now = run(reach, now, 0.5)
        reach.set(PREFIXES, (), now)
        now = run(reach, now, 0.5)
        assert reach.told() == PREFIXES


@pytest.fixture
def sim() -> Sim:
    """Three nodes that all have the address on-link."""
    made = Sim(*NODES)
    made.tell(group(IP, *NODES))
    for node in made.nodes.values():
        node.layer2.connected = {IP}
        node.layer2.happen(api.InterfacesChanged(("eth0",)))
    made.run(13.0)
    return made


def plug(node: Node, *, carrier: bool) -> None:
    node.layer2.carrier = carrier
    node.layer2.happen(api.InterfacesChanged(("eth0",)))


def test_a_node_that_is_heard_but_has_lost_the_services_network_is_replaced(sim: Sim) -> None:
    (first,) = sim.owners(IP)
    plug(sim.nodes[first], carrier=False)
    sim.run(3.0)
    (second,) = sim.owners(IP)
    assert second != first
    plug(sim.nodes[first], carrier=True)
    sim.run(SETTLE - 0.5)
    assert sim.owners(IP) == [second]
    sim.run(2.0)
    assert sim.owners(IP) == [first]


def test_where_all_lose_it_each_keeps_what_it_has_by_the_election(sim: Sim) -> None:
    (first,) = sim.owners(IP)
    for node in sim.nodes.values():
        plug(node, carrier=False)
    sim.run(5.0)
    assert sim.owners(IP) == [first]
    for node in sim.nodes.values():
        plug(node, carrier=True)
    for _ in range(150):
        sim.run(0.1)
        assert len(sim.owners(IP)) == 1
    assert sim.owners(IP) == [first]


def test_a_node_with_one_network_for_all_is_as_before(sim: Sim) -> None:
    """Nobody hears it: membership decides, and what it says when the cable is back is what it always said."""
    (first,) = sim.owners(IP)
    node = sim.nodes[first]
    told = node.announcer.membership.view()[first].prefixes
    assert told == (f"{IP}/32",)
    sim.network.lost = lambda data, source, target: node.address in (source[0], target[0])
    plug(node, carrier=False)
    for _ in range(60):
        sim.run(0.1)
        assert node.announcer.membership.view()[first].prefixes == told
        assert IP in node.owned
    sim.network.lost = lambda data, source, target: False
    sim.run(0.1)
    plug(node, carrier=True)
    sim.run(5.0)
    assert node.announcer.membership.view()[first].prefixes == told
    assert len(sim.owners(IP)) == 1
