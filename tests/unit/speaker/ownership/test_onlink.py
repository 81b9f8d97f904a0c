"""Who is passed over, by what members say of their connected routes."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from metallb_speaker.announcer.elect import rank
from metallb_speaker.announcer.membership.events import Standing, Tier
from metallb_speaker.announcer.ownership.groups import PREFIX, Groups
from metallb_speaker.announcer.ownership.onlink import OnLink
from metallb_speaker.desired import AnnouncedAddress, Layer2Group


def standings(**prefixes: tuple[str, ...] | None) -> dict[str, Standing]:
    return {name: Standing(name, Tier.SETTLED, prefixes=said) for name, said in prefixes.items()}


def group(*ips: str, candidates: tuple[str, ...] = ("a", "b", "c"), fallback: tuple[str, ...] = ()) -> Layer2Group:
    return Layer2Group(ips[0], tuple(AnnouncedAddress(ip, ("d/s",)) for ip in ips), candidates, fallback)


def off(item: Layer2Group, **prefixes: tuple[str, ...] | None) -> set[str]:
    table = OnLink()
    table.update(standings(**prefixes))
    return set(table.off(item))


V4, V6 = "192.0.2.7", "2001:db8::7"
NET4, NET6, OTHER = "192.0.2.0/24", "2001:db8::/64", "198.51.100.0/24"


def test_only_those_with_a_connected_route_where_there_are_any() -> None:
    assert off(group(V4), a=(NET4,), b=(OTHER,), c=()) == {"b", "c"}
    assert off(group(V4), a=(OTHER,), b=(OTHER,), c=()) == set(), "nobody has one: all are candidates"
    assert off(group(V4), a=(NET4,), b=(NET4,), c=(NET4,)) == set()
    assert off(group(V6), a=(NET4,), b=(NET6,), c=(NET4, NET6)) == {"a"}


def test_of_whom_nothing_is_known_is_passed_over_by_nobody() -> None:
    assert off(group(V4), a=(NET4,), b=None, c=()) == {"c"}
    assert off(group(V4), a=None, b=None, c=()) == set()
    assert off(group(V4), a=(NET4,)) == set()


def test_one_that_is_no_candidate_does_not_count() -> None:
    assert off(group(V4, candidates=("b", "c")), a=(NET4,), b=(OTHER,), c=()) == set()


def test_a_cordoned_one_on_the_subnet_goes_before_a_good_one_off_it() -> None:
    assert off(group(V4, candidates=("b", "c"), fallback=("a",)), a=(NET4,), b=(OTHER,), c=()) == {"b", "c"}
    groups = Groups()
    groups.relink(standings(a=(NET4,), b=(OTHER,), c=()))
    entry = groups.put(group(V4, candidates=("b", "c"), fallback=("a",)))
    assert groups.elect(entry, lambda _: Tier.SETTLED) == "a"
    assert groups.elect(entry, lambda _: Tier.SETTLED, without="a") in ("b", "c")


def test_both_addresses_of_a_group_count() -> None:
    assert off(group(V4, V6), a=(NET4, NET6), b=(NET4,), c=()) == {"b", "c"}
    assert off(group(V4, V6), a=(NET4,), b=(NET4,), c=()) == {"c"}, "what nobody reaches does not count"
    assert off(group(V4, V6), a=(NET4,), b=(NET6,), c=()) == {"b", "c"}, "no node has both: the first address"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_election_with_an_index_is_the_plain_rule(seed: int) -> None:
    """Over changes at random: the first by rank of the best tier, of those that are not passed over while any lives."""
    rng = random.Random(seed)
    nodes = tuple(f"n{i}" for i in range(PREFIX + 4))
    said: dict[str, tuple[str, ...] | None] = dict.fromkeys(nodes)
    tiers = dict.fromkeys(nodes, Tier.SETTLED)
    groups, ips = Groups(), [f"192.0.2.{n}" for n in range(1, 9)] + [f"198.51.100.{n}" for n in range(1, 5)]
    for ip in ips:
        groups.put(group(ip, candidates=tuple(sorted(rng.sample(nodes, rng.randint(1, len(nodes)))))))
    for _ in range(30):
        name = rng.choice(nodes)
        if rng.random() < 0.5:
            said[name] = rng.choice([None, (), (NET4,), (OTHER,), (NET4, OTHER)])
            groups.relink(standings(**said))
        else:
            tiers[name] = rng.choice(list(Tier))
        for entry in groups.entries.values():
            item = entry.group
            net = NET4 if item.key.startswith("192.") else OTHER
            known = {n for n in item.candidates if said[n] is not None}
            reach = {n for n in known if net in (said[n] or ())}
            passed = known - reach if reach else set()
            living = [n for n in rank(item.candidates, item.key) if tiers[n] is not Tier.SILENT]
            expected = min(living, key=lambda n: (n in passed, tiers[n]), default="")
            assert groups.elect(entry, tiers.__getitem__) == expected
