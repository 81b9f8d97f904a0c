"""Whose MAC addresses the wire tells, where membership does not."""

from __future__ import annotations

from metallb_speaker.announcer.membership.events import Standing, Tier
from metallb_speaker.announcer.ownership.neighbours import BURST, BURST_EVERY, NEVER, PATIENCE, PAUSES, Neighbours

NODES = {"n1": ("10.0.0.1", "fd00::1"), "n2": ("10.0.0.2",)}


def unheard(*names: str) -> dict[str, Standing]:
    return {name: Standing(name, Tier.SETTLED, cluster_only=True) for name in names}


def made() -> Neighbours:
    neighbours = Neighbours()
    neighbours.set(NODES)
    neighbours.follow(unheard("n1", "n2"))
    return neighbours


def test_those_that_are_not_heard_are_asked_for_by_all_their_addresses_less_and_less_often() -> None:
    neighbours = made()
    assert neighbours.deadline() <= 0.0
    assert neighbours.due(0.0) == [], "it may be heard in a moment"
    now = PATIENCE
    assert neighbours.deadline() == now
    assert neighbours.due(now) == ["10.0.0.1", "fd00::1", "10.0.0.2"]
    for pause in (*PAUSES, PAUSES[-1]):
        assert neighbours.deadline() == now + pause
        assert neighbours.due(now + pause - 0.01) == []
        now += pause
        assert neighbours.due(now) == ["10.0.0.1", "fd00::1", "10.0.0.2"]


def test_an_answer_ends_the_questions() -> None:
    neighbours = made()
    neighbours.due(0.0)
    assert len(neighbours.due(1.0)) == 3
    assert neighbours.answered("10.0.0.1", []) == "", "silence is no answer"
    assert neighbours.answered("10.0.0.9", ["02::9"]) == "", "somebody else's address"
    assert neighbours.answered("10.0.0.1", ["02::1"]) == "n1"
    assert neighbours.answered("fd00::1", ["02::1"]) == "", "no news"
    assert neighbours.answered("fd00::1", ["02::11"]) == "n1", "another interface"
    assert (neighbours.node_of("02::1"), neighbours.node_of("02::11"), neighbours.node_of("02::2")) == ("n1", "n1", "")
    assert set(neighbours.known()) == set(neighbours.macs("n1")) == {"02::1", "02::11"}
    assert neighbours.all() == {"n1": ["02::1", "02::11"]}
    assert neighbours.due(1.2) == ["10.0.0.2"]
    neighbours.follow(unheard("n1", "n2"))
    assert neighbours.due(1.7) == ["10.0.0.2"]


def test_who_is_heard_or_gone_is_not_asked_for() -> None:
    neighbours = made()
    neighbours.follow(
        {
            "n1": Standing("n1", Tier.SETTLED, macs=("02::1",)),
            "n2": Standing("n2", Tier.SILENT, cluster_only=True),
        }
    )
    assert neighbours.due(0.0) == []
    assert neighbours.deadline() == NEVER


def test_who_comes_back_or_moves_is_asked_for_anew() -> None:
    neighbours = made()
    neighbours.due(0.0)
    neighbours.answered("10.0.0.1", ["02::1"])
    neighbours.answered("10.0.0.2", ["02::2"])
    neighbours.follow({"n1": Standing("n1", Tier.SILENT, cluster_only=True)} | unheard("n2"))
    assert neighbours.due(1.0) == []
    assert neighbours.node_of("02::1") == "n1", "it may be leaving, and still answer"
    neighbours.follow(unheard("n1", "n2"))
    assert neighbours.due(2.0) == []
    assert neighbours.due(2.0 + PATIENCE) == ["10.0.0.1", "fd00::1"]
    assert neighbours.node_of("02::1") == "n1"
    assert neighbours.answered("10.0.0.1", ["02::17"]) == "n1"
    assert (neighbours.node_of("02::1"), neighbours.node_of("02::17")) == ("", "n1")
    neighbours.set({"n1": ("10.0.0.7",), "n2": NODES["n2"]})
    neighbours.follow(unheard("n1", "n2"))
    assert neighbours.node_of("02::17") == ""
    assert neighbours.due(3.0) == []
    assert neighbours.due(3.0 + PATIENCE) == ["10.0.0.7"]
    neighbours.set({"n2": NODES["n2"]})
    neighbours.follow(unheard("n2"))
    assert neighbours.due(9.0) == []


def test_hundreds_are_asked_for_a_few_at_a_time() -> None:
    neighbours = Neighbours()
    many = {f"n{i}": (f"10.0.0.{i}",) for i in range(30)}
    neighbours.set(many)
    neighbours.follow(unheard(*many))
    asked: list[str] = []
    now = 0.0
    while neighbours.deadline() < NEVER:
        now = max(now, neighbours.deadline())
        found = neighbours.due(now)
        assert len(found) <= BURST
        asked += found
        for address in found:
            neighbours.answered(address, [f"02::{address}"])
    assert now == 3 * BURST_EVERY
    assert len(asked) == 30
