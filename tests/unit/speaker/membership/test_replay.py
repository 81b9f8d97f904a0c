"""Replays: the window, and the challenge that admits a new life of a sender."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from metallb_speaker.announcer.membership import wire
from metallb_speaker.announcer.membership.keys import Keyring
from metallb_speaker.announcer.membership.replay import WINDOW, Window
from metallb_speaker.announcer.membership.swim import Membership
from metallb_speaker.desired import Member

KEYS = Keyring.from_text("secret")
PLACES = {"a": ("192.0.2.1", 7946), "b": ("192.0.2.2", 7946)}
MEMBERS = [Member(name, (place[0],), alive=True) for name, place in PLACES.items()]


@given(st.lists(st.integers(0, 3 * WINDOW), max_size=200))
def test_the_window_accepts_each_counter_once_and_none_too_old(counters: list[int]) -> None:
    window, seen, highest = Window(100), {100}, 100
    for counter in counters:
        expected = counter not in seen and counter > max(100, highest - WINDOW)
        if counter <= 100:
            expected = False
        assert window.accept(counter) is expected
        if expected:
            seen.add(counter)
            highest = max(highest, counter)


def pair(seed: int) -> dict[str, Membership]:
    return {
        name: Membership(name, KEYS, rng=random.Random(seed + i), now=0.0, address=PLACES[name][0])
        for i, name in enumerate(PLACES)
    }


def shuttle(members: dict[str, Membership], now: float, tape: list[tuple[str, bytes]] | None = None) -> None:
    """Deliver until both are quiet."""
    names = {place: name for name, place in PLACES.items()}
    for _ in range(50):
        moved = False
        for name, member in members.items():
            if member.deadline() <= now:
                member.on_deadline(now)
            for data, target in member.pending():
                moved = True
                if tape is not None:
                    tape.append((names[target], data))
                members[names[target]].receive(data, PLACES[name], now)
        if not moved:
            return


def joined(seed: int = 1, tape: list[tuple[str, bytes]] | None = None) -> dict[str, Membership]:
    members = pair(seed)
    for member in members.values():
        member.set(MEMBERS, 0.0)
    shuttle(members, 0.0, tape)
    assert all(member.ready for member in members.values())
    return members


def test_three_datagrams_make_both_sides_admit_each_other() -> None:
    a, b = pair(3).values()
    a.set(MEMBERS, 0.0)
    b.set([], 0.0)
    a.on_deadline(0.0)
    [(hello, _)] = [item for item in a.pending() if item[1] == PLACES["b"]]
    b.receive(hello, PLACES["a"], 0.0)
    assert b.drops()["notAdmitted"] == 1
    assert "a" not in b.view()
    [(challenge, _)] = b.pending()
    a.receive(challenge, PLACES["b"], 0.0)
    assert a.view()["b"].tier < 3
    answers = [data for data, _ in a.pending()]
    b.receive(answers[0], PLACES["a"], 0.0)
    assert b.view()["a"].tier < 3


def test_a_recording_changes_nothing() -> None:
    tape: list[tuple[str, bytes]] = []
    members = joined(tape=tape)
    for step in range(1, 20):
        shuttle(members, step * 0.1, tape)
    b = members["b"]
    before = (dict(b.view()), b.generation)
    b.events()
    dropped = sum(b.drops().values())
    for target, data in tape:
        if target == "b":
            b.receive(data, ("203.0.113.66", 7946), 2.0)
    played = sum(target == "b" for target, _ in tape)
    assert sum(b.drops().values()) - dropped == played
    assert (dict(b.view()), b.generation) == before
    assert b.events() == []
    assert all(target != ("203.0.113.66", 7946) for _, target in b.pending())


def test_an_earlier_life_cannot_be_played_back_to_a_restarted_receiver() -> None:
    tape: list[tuple[str, bytes]] = []
    joined(seed=1, tape=tape)
    reborn = Membership("b", KEYS, rng=random.Random(99), now=50.0)
    reborn.set(MEMBERS, 50.0)
    for target, data in tape:
        if target == "b":
            reborn.receive(data, PLACES["a"], 50.0)
    assert reborn.view()["a"].cluster_only
    assert reborn.drops()["notAdmitted"] > 0
    # Nor does the flood make it send more than a challenge each 20 ms.
    assert len(reborn.pending()) <= 4


def test_a_datagram_for_another_member_is_not_accepted() -> None:
    tape: list[tuple[str, bytes]] = []
    members = joined(tape=tape)
    to_a = [data for target, data in tape if target == "a"]
    before = members["b"].drops()[wire.NOT_AUTHENTIC]
    for data in to_a:
        members["b"].receive(data, PLACES["a"], 1.0)
    assert members["b"].drops()[wire.NOT_AUTHENTIC] == before + len(to_a)


def test_our_own_name_from_elsewhere_is_dropped() -> None:
    members = joined()
    twin = Membership("b", KEYS, rng=random.Random(5), now=0.0)
    twin.set([Member("b", ("192.0.2.2",), alive=True), *MEMBERS], 0.0)
    twin.on_deadline(0.0)
    forged = wire.encode("b", 1, 1, 1, [], "b", KEYS)
    members["b"].receive(forged, ("192.0.2.9", 7946), 1.0)
    assert members["b"].drops()["ownName"] == 1


def test_a_member_that_nobody_lists_any_more_is_forgotten_after_a_minute() -> None:
    members = joined()
    b = members["b"]
    b.set([MEMBERS[1]], 0.5)
    for step in range(10, 700):
        if b.deadline() <= step / 10:
            b.on_deadline(step / 10)
        b.pending()
    assert "a" not in b.view()
    assert {type(event).__name__ for event in b.events()} >= {"Failed", "Left"}
