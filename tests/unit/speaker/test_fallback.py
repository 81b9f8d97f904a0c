"""Nodes that come behind the candidates: NotReady and cordoned ones, as long as there are better ones."""

from __future__ import annotations

import pytest

from metallb_speaker.announcer.membership.events import Tier
from metallb_speaker.announcer.ownership.groups import PREFIX, Groups
from metallb_speaker.desired import Layer2Group

SETTLED, NEW, LEAVING, SILENT = Tier


@pytest.mark.parametrize(
    ("tiers", "winner"),
    [
        ({}, "a"),
        ({"a": SILENT}, "b"),
        ({"a": SILENT, "b": SILENT}, "c"),
        ({"a": LEAVING, "b": SILENT}, "c"),  # behind, but it stays
        ({"a": NEW, "b": SILENT, "c": NEW, "d": NEW}, "a"),
        ({"a": NEW, "b": SILENT, "c": SILENT}, "d"),  # a newcomer waits until it has settled
        ({"a": SILENT, "b": SILENT, "c": SILENT}, "d"),
        (dict.fromkeys("abcd", SILENT), ""),
    ],
)
def test_who_comes_behind(tiers: dict[str, Tier], winner: str) -> None:
    groups = Groups()
    entry = groups.put(Layer2Group("1.1.1.1", (), ("a", "b"), ("c", "d")))
    assert groups.elect(entry, lambda node: tiers.get(node, SETTLED)) == winner


@pytest.mark.parametrize("spread", [(), ("a", "b", "c", "d")])
@pytest.mark.parametrize(
    ("tiers", "winner"),
    [({}, "a"), ({"a": SILENT}, "c"), ({"a": SILENT, "c": SILENT}, "b"), ({"a": NEW, "c": LEAVING}, "b")],
)
def test_who_comes_last(tiers: dict[str, Tier], winner: str, spread: tuple[str, ...]) -> None:
    groups = Groups()
    entry = groups.put(Layer2Group("1.1.1.1", (), ("a",), ("c",), ("b",), spread=spread))
    groups.spread.complete()
    groups.spread.due(0.0)
    assert groups.elect(entry, lambda node: tiers.get(node, SETTLED)) == winner
    assert groups.touched("b", lambda node: SETTLED) == ["1.1.1.1"]


def test_many_candidates_go_before_any_fallback() -> None:
    groups = Groups()
    names = tuple(f"n{i:02}" for i in range(PREFIX + 3))
    entry = groups.put(Layer2Group("1.1.1.1", (), names, ("z",)))
    silent = set(entry.order)
    assert groups.elect(entry, lambda node: SILENT if node in silent else SETTLED) in set(names) - silent


def test_changes_of_fallback_nodes_matter() -> None:
    groups = Groups()
    groups.put(Layer2Group("1.1.1.1", (), ("a",), ("c",)))
    assert groups.touched("c", lambda node: SETTLED) == ["1.1.1.1"]
    groups.put(Layer2Group("1.1.1.1", (), ("a", "c"), ()))
    groups.put(Layer2Group("1.1.1.1", (), ("a",), ()))
    assert groups.touched("c", lambda node: SETTLED) == []
    groups.remove("1.1.1.1")
