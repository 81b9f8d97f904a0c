"""Spreading evenly: how even, and how few move."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Collection, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from metallb_speaker.announcer.elect import rank
from metallb_speaker.announcer.membership.events import Tier
from metallb_speaker.announcer.ownership.groups import Groups
from metallb_speaker.announcer.ownership.spread import _hashed, assign
from metallb_speaker.desired import AnnouncedAddress, Layer2Group

SEEDS = st.integers(0, 2**32)


def spread(keys: Collection[str], universe: Collection[str], available: Collection[str]) -> dict[str, str]:
    return assign(sorted(keys, key=_hashed), universe, available, lambda key: rank(universe, key))


def uneven(held: Mapping[str, str], nodes: Collection[str]) -> int:
    loads = Counter(held.values())
    return max(loads[n] for n in nodes) - min(loads[n] for n in nodes)


def moved(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    return {key for key in before.keys() & after.keys() if before[key] != after[key]}


def some(seed: int) -> tuple[random.Random, list[str], list[str]]:
    rng = random.Random(seed)
    nodes = [f"node-{rng.randrange(1000)}-{i}" for i in range(rng.randint(1, 12))]
    return rng, nodes, [f"10.{rng.randrange(256)}.{i // 256}.{i % 256}" for i in range(rng.randint(0, 120))]


@settings(max_examples=150, deadline=None)
@given(SEEDS)
def test_loads_differ_by_one_at_most_whoever_is_there(seed: int) -> None:
    rng, nodes, keys = some(seed)
    there = rng.sample(nodes, rng.randint(1, len(nodes)))
    held = spread(keys, nodes, there)
    assert held.keys() == set(keys)
    assert set(held.values()) <= set(there)
    assert uneven(held, there) <= 1


@settings(max_examples=150, deadline=None)
@given(SEEDS)
def test_order_does_not_matter(seed: int) -> None:
    rng, nodes, keys = some(seed)
    there = rng.sample(nodes, rng.randint(1, len(nodes)))
    first = spread(keys, nodes, there)
    for items in (nodes, keys, there):
        rng.shuffle(items)
    assert spread(keys, nodes, there) == first


@settings(max_examples=150, deadline=None)
@given(SEEDS)
def test_the_loss_of_one_of_all_moves_its_own_alone(seed: int) -> None:
    rng, nodes, keys = some(seed)
    if len(nodes) < 2:
        return
    before, lost = spread(keys, nodes, nodes), rng.choice(nodes)
    after = spread(keys, nodes, [n for n in nodes if n != lost])
    assert moved(before, after) == {key for key, node in before.items() if node == lost}


@settings(max_examples=150, deadline=None)
@given(SEEDS)
def test_a_further_loss_moves_nothing_that_was_on_a_node_that_is_there(seed: int) -> None:
    """What is at home stays at home, however many are missing: the bound is the shares of all that are missing."""
    rng, nodes, keys = some(seed)
    there = rng.sample(nodes, rng.randint(1, len(nodes)))
    home = spread(keys, nodes, nodes)
    held = spread(keys, nodes, there)
    assert all(held[key] == node for key, node in home.items() if node in there)


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_a_key_that_comes_moves_few_and_one_that_goes_moves_them_back(seed: int) -> None:
    _, nodes, keys = some(seed)
    before = spread(keys, nodes, nodes)
    after = spread([*keys, "192.0.2.1"], nodes, nodes)
    # One chain for the place that it takes, and one for the node that has room for one more now.
    assert len(moved(before, after)) <= 2 * (len(nodes) - 1)
    assert uneven(after, nodes) <= 1


def test_a_key_that_comes_moves_about_one_other() -> None:
    """The mean, over many: what a user sees."""
    nodes = [f"node-{i}" for i in range(10)]
    total = 0
    keys = [f"10.0.{i // 250}.{i % 250}" for i in range(400)]
    held = spread(keys[:200], nodes, nodes)
    for count in range(201, 401):
        after = spread(keys[:count], nodes, nodes)
        total += len(moved(held, after))
        held = after
    assert total / 200 < 3


# --- in the groups -----------------------------------------------------------------------------------------


def group(
    ip: str, candidates: Collection[str], universe: Collection[str], fallback: Collection[str] = ()
) -> Layer2Group:
    addresses = (AnnouncedAddress(ip, ("d/s",)),)
    return Layer2Group(
        ip, addresses, tuple(sorted(candidates)), tuple(sorted(fallback)), spread=tuple(sorted(universe))
    )


NODES = ["a", "b", "c", "d"]
IPS = [f"192.0.2.{n}" for n in range(1, 31)]


def elected(groups: Groups, **tiers: Tier) -> dict[str, str]:
    groups.spread.complete()
    groups.spread.due(groups.spread.deadline())
    standing = dict.fromkeys(NODES, Tier.SETTLED) | tiers
    return {key: groups.elect(entry, lambda n: standing.get(n, Tier.SILENT)) for key, entry in groups.entries.items()}


def filled(**more: object) -> Groups:
    groups = Groups()
    for ip in IPS:
        groups.put(group(ip, NODES, NODES, **more))  # type: ignore[arg-type]
    return groups


def test_groups_are_spread_over_the_best_tier() -> None:
    groups = filled()
    everywhere = elected(groups)
    assert uneven(everywhere, NODES) <= 1
    for worse in (Tier.NEW, Tier.LEAVING, Tier.SILENT):
        without = elected(groups, b=worse)
        assert uneven(without, ["a", "c", "d"]) <= 1
        assert moved(everywhere, without) == {key for key, node in everywhere.items() if node == "b"}
    assert set(elected(groups, a=Tier.SILENT, b=Tier.SILENT, c=Tier.SILENT, d=Tier.SILENT).values()) == {""}
    assert elected(groups) == everywhere


def test_a_cordon_moves_that_nodes_alone_and_spreads_them() -> None:
    groups = filled()
    before = elected(groups)
    for ip in IPS:
        groups.put(group(ip, ["a", "c", "d"], NODES, ["b"]))
    after = elected(groups)
    assert uneven(after, ["a", "c", "d"]) <= 1
    assert moved(before, after) == {key for key, node in before.items() if node == "b"}
    assert set(elected(groups, a=Tier.SILENT, c=Tier.SILENT, d=Tier.SILENT).values()) == {"b"}


def test_an_address_whose_own_candidates_are_fewer_moves_nobody_else() -> None:
    """externalTrafficPolicy Local: endpoints come and go, and the others stay where they are."""
    groups = filled()
    before = elected(groups)
    ip = next(key for key, node in before.items() if node != "c")
    groups.put(group(ip, ["c"], NODES))
    after = elected(groups)
    assert moved(before, after) == {ip}
    assert after[ip] == "c"
    groups.put(group(ip, NODES, NODES))
    assert elected(groups) == before


def test_the_same_few_candidates_are_spread_over_evenly() -> None:
    groups = Groups()
    for ip in IPS:
        groups.put(group(ip, ["b", "d"], NODES))
    assert uneven(elected(groups), ["b", "d"]) <= 1


def test_a_preferred_node_wins_and_moves_nobody_else() -> None:
    groups = filled()
    before = elected(groups)
    ip = next(key for key, node in before.items() if node != "d")
    item = group(ip, NODES, NODES)
    groups.put(Layer2Group(ip, item.addresses, item.candidates, preferred="d", spread=item.spread))
    assert moved(before, elected(groups)) == {ip}
    assert elected(groups)[ip] == "d"
    assert elected(groups, d=Tier.SILENT)[ip] != "d"


def test_switching_the_option_on_and_off() -> None:
    groups = filled()
    even = elected(groups)
    for ip in IPS:
        groups.put(Layer2Group(ip, groups.entries[ip].group.addresses, tuple(NODES)))
    plain = elected(groups)
    assert plain == {ip: rank(NODES, ip)[0] for ip in IPS}
    assert not groups.spread.pools
    for ip in IPS:
        groups.put(group(ip, NODES, NODES))
    assert elected(groups) == even
    for ip in IPS:
        groups.remove(ip)
    assert elected(groups) == {}
    assert not groups.spread.pools


def test_five_thousand_keys_are_computed_in_time() -> None:
    """A bound far above what is needed, so that a quadratic mistake shows on any machine."""
    keys, nodes = [f"10.{i // 62500}.{i // 250 % 250}.{i % 250}" for i in range(5000)], [f"n{i}" for i in range(20)]
    ranks = {key: rank(nodes, key) for key in keys}
    keys.sort(key=_hashed)
    begin = time.process_time()
    assign(keys, nodes, nodes[:-3], ranks.__getitem__)
    assert time.process_time() - begin < 3
