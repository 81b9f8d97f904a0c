"""Who gets which address, in virtual time: even spread, subnets, interfaces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest

from metallb_speaker.announcer.elect import rank
from metallb_speaker.announcer.membership.keys import NO_KEYS
from metallb_speaker.desired import Layer2Group
from tests.unit.speaker.simulator import KEYS, Cluster, group
from tests.unit.speaker.steady import ADDRESSES, DETECTION, elected, moves, owners, steady


def even(ip: str, names: Iterable[str], candidates: Iterable[str] = (), fallback: Iterable[str] = ()) -> Layer2Group:
    """Of a pool that is spread evenly over `names`."""
    plain = group(ip, candidates or names)
    return replace(plain, spread=tuple(sorted(names)), fallback=tuple(sorted(fallback)))


def loads(cluster: Cluster) -> Counter[str]:
    assert all(len(names) == 1 for names in owners(cluster).values())
    return Counter(names[0] for names in owners(cluster).values())


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_an_even_spread_through_a_power_off_a_return_a_cordon_and_a_new_service(loss: float) -> None:
    cluster = Cluster(4, seed=3)
    nodes = list(cluster.nodes)
    cluster.groups = [even(ip, nodes) for ip in ADDRESSES]
    cluster.start()
    cluster.run(12.5)
    cluster.loss = loss
    home = owners(cluster)
    assert sorted(loads(cluster).values()) == [7, 7, 8, 8]
    cluster.forget_history()

    cluster.power_off("node-2")
    cluster.run(3)
    assert moves(cluster) == {key for key, names in home.items() if names == ["node-2"]}, "nothing else moves"
    assert sorted(loads(cluster).values()) == [10, 10, 10]
    assert max(cluster.gaps.values()) <= DETECTION + 0.06
    cluster.restart("node-2")
    cluster.run(14)
    assert owners(cluster) == home
    cluster.forget_history()

    cluster.set_groups([even(ip, nodes, [n for n in nodes if n != "node-1"], ["node-1"]) for ip in ADDRESSES])
    cluster.run(3)
    assert moves(cluster) == {key for key, names in home.items() if names == ["node-1"]}
    assert sorted(loads(cluster).values()) == [10, 10, 10]
    cluster.set_groups([even(ip, nodes) for ip in ADDRESSES])
    cluster.run(3)
    assert owners(cluster) == home
    cluster.forget_history()

    cluster.set_groups([even(ip, nodes) for ip in [*ADDRESSES, "203.0.113.1"]])
    cluster.run(3)
    assert sorted(loads(cluster).values()) == [7, 8, 8, 8]
    assert len(moves(cluster) - {"203.0.113.1"}) <= 3
    assert max(gap for key, gap in [*cluster.gaps.items(), ("", 0.0)] if key != "203.0.113.1") == 0
    assert max(cluster.doubles.values(), default=0) <= (0.05 if not loss else 0.9)


def test_nodes_that_disagree_on_an_even_spread_settle_it_without_a_gap() -> None:
    """One has not heard of half of the Services for two seconds: its view spreads the others otherwise."""
    cluster = Cluster(3, seed=5)
    nodes = list(cluster.nodes)
    cluster.groups = [even(ip, nodes) for ip in ADDRESSES]
    cluster.start()
    cluster.run(12.5)
    cluster.forget_history()
    late = cluster.nodes["node-1"]
    for node in cluster.nodes.values():
        if node is not late:
            node.ownership.replace([even(ip, nodes) for ip in ADDRESSES[::2]], cluster.now)
            cluster.turn(node)
    cluster.run(2)
    kept = set(ADDRESSES[::2])
    assert all(cluster.answering(key) for key in kept)
    late.ownership.replace([even(ip, nodes) for ip in ADDRESSES[::2]], cluster.now)
    cluster.turn(late)
    cluster.groups = [even(ip, nodes) for ip in ADDRESSES[::2]]
    cluster.run(5)
    assert sorted(loads(cluster).values()) == [5, 5, 5]
    assert max((gap for key, gap in cluster.gaps.items() if key in kept), default=0) <= 0.01
    assert max((double for key, double in cluster.doubles.items() if key in kept), default=0) <= 1.0


HERE, THERE = ("192.0.2.0/24", "2001:db8::/64"), ("198.51.100.0/24",)


def test_nodes_off_the_subnet_announce_only_when_no_other_is_alive() -> None:
    prefixes = {f"node-{i}": HERE if i < 2 else THERE for i in range(5)}
    del prefixes["node-4"]  # an older version, say: nothing is known of it
    cluster = Cluster(5, prefixes=prefixes)
    far = "203.0.113.1"  # on no node's subnet
    cluster.groups = [group(ip, cluster.nodes) for ip in [*ADDRESSES, "2001:db8::7", far]]
    cluster.start()
    cluster.run(12.5)
    near = {"node-0", "node-1", "node-4"}
    expected = elected(cluster, near) | {far: [rank(cluster.nodes, far)[0]]}
    assert owners(cluster) == expected
    assert {name for names in expected.values() for name in names} >= near
    cluster.forget_history()
    cluster.power_off("node-0", "node-1", "node-4")
    cluster.run(4)
    assert {names[0] for names in owners(cluster).values()} == {"node-2", "node-3"}, "better than nobody"
    assert all(len(names) == 1 for names in owners(cluster).values())
    cluster.restart("node-1")
    cluster.run(4)
    held = {names[0] for key, names in owners(cluster).items() if key != far}
    assert held == {"node-1"}, "one of the subnet, though new"


def test_interfaces_that_change_move_addresses_in_order() -> None:
    cluster = Cluster(3, prefixes=dict.fromkeys(("node-0", "node-1", "node-2"), HERE))
    cluster.groups = [group(ip, cluster.nodes) for ip in ADDRESSES]
    cluster.start()
    cluster.run(12.5)
    before = owners(cluster)
    cluster.forget_history()
    cluster.nodes["node-1"].membership.set_prefixes(THERE, cluster.now)
    cluster.turn(cluster.nodes["node-1"])
    cluster.run(2)
    assert owners(cluster) == elected(cluster, {"node-0", "node-2"})
    assert moves(cluster) == {key for key, names in before.items() if names == ["node-1"]}
    cluster.nodes["node-1"].membership.set_prefixes(HERE, cluster.now)
    cluster.turn(cluster.nodes["node-1"])
    cluster.run(2)
    assert owners(cluster) == before
    assert max(cluster.gaps.values(), default=0) == 0
    assert max(cluster.doubles.values(), default=0) <= 0.02


@pytest.mark.parametrize("silenced", [True, False])
def test_who_is_on_the_subnet_makes_no_split_where_members_do_not_hear_each_other(silenced: bool) -> None:
    """Each knows its own prefixes alone: then nobody is passed over, and all agree."""
    prefixes = {"node-0": THERE, "node-1": HERE, "node-2": THERE}
    cluster = Cluster(3, prefixes=prefixes, keyring=KEYS if silenced else NO_KEYS)
    cluster.groups = [group(ip, cluster.nodes) for ip in ADDRESSES]
    for node in cluster.nodes.values():
        node.silenced = silenced
    cluster.start()
    cluster.run(13)
    assert owners(cluster) == elected(cluster, cluster.nodes)


@pytest.mark.parametrize("frozen", [0.9, 2.0, 20.0])
@pytest.mark.parametrize("queued", [True, False])
def test_what_is_handed_back_to_a_machine_that_was_frozen_with_its_clock_is_announced(
    frozen: float, queued: bool
) -> None:
    """It owns it already, and does not know that hosts' caches have pointed elsewhere since."""
    cluster = steady(3)
    before = owners(cluster)
    own = {key for key, names in before.items() if names == ["node-1"]}
    cluster.pause("node-1")
    cluster.run(frozen)
    assert all(cluster.last_frame[key] != "node-1" for key in own)
    if not queued:
        cluster.nodes["node-1"].queue.clear()
    cluster.thaw("node-1", frozen)
    cluster.run(5)
    assert owners(cluster) == before
    assert {cluster.last_frame[key] for key in own} == {"node-1"}
    assert max(cluster.gaps.values()) <= DETECTION
    assert max(cluster.doubles.values(), default=0) <= 0.1
