"""A node that thousands of groups depend on comes or goes: they are elected in slices, one per turn."""

from __future__ import annotations

from metallb_speaker.announcer.elect import rank
from metallb_speaker.announcer.membership import events as m
from metallb_speaker.announcer.membership.events import Tier
from metallb_speaker.announcer.ownership import Ownership, machine
from metallb_speaker.announcer.ownership import events as o
from tests.unit.speaker.ownership.told import Members, follow, group

NODES = ("n1", "n2", "n3")
KEYS = [f"10.0.{i >> 8}.{i & 255}" for i in range(3000)]
OURS = {key for key in KEYS if rank(NODES, key)[0] == "n1"}
HEIRED = {key for key in KEYS if rank(NODES, key)[:2] == ["n2", "n1"]}


def made() -> tuple[Ownership, Members]:
    members, ownership = Members("n1", **dict.fromkeys(NODES, Tier.SETTLED)), Ownership("n1", 0.0)
    ownership.follow(members, 0.0)  # type: ignore[arg-type]
    ownership.complete(0.0)
    ownership.replace([group(key) for key in KEYS], 0.0)
    turns(ownership, members, 0.0)
    assert ownership.owned().keys() == OURS
    return ownership, members


def turns(ownership: Ownership, members: Members, now: float) -> list[list[o.Event]]:
    """What happens turn by turn, until there is nothing more to do at once."""
    out = [follow(ownership, members, now)]
    while ownership.deadline() <= now:
        out.append(follow(ownership, members, now))
        assert len(out) < 1000, "it never comes to rest"
    return out


def test_what_a_lost_node_had_is_taken_in_slices() -> None:
    ownership, members = made()
    members.tier("n2", Tier.SILENT, m.Failed("n2"))
    out = turns(ownership, members, 1.0)
    asked = [event for turn in out for event in turn if isinstance(event, o.Probe)]
    for event in asked:
        ownership.probe_result(event.address, [], 1.0)
    out += turns(ownership, members, 2.0)
    taken = [[e.key for e in turn if isinstance(e, o.Acquired)] for turn in out]
    assert {key for turn in taken for key in turn} == HEIRED
    assert sum(map(len, taken)) == len(HEIRED), "each once"
    assert max(map(len, taken)) <= machine.SLICE
    assert ownership.owned().keys() == OURS | HEIRED


def test_one_that_comes_back_meanwhile_is_left_what_was_not_taken_yet() -> None:
    ownership, members = made()
    members.tier("n2", Tier.SILENT, m.Left("n2"))
    follow(ownership, members, 1.0)
    some = len(ownership.owned())
    assert len(OURS) < some < len(OURS | HEIRED)
    members.tier("n2", Tier.SETTLED, m.Cleared("n2"))
    turns(ownership, members, 1.0)
    assert len(ownership.owned()) <= some + machine.SLICE


def test_a_leaver_waits_until_every_group_has_been_offered() -> None:
    ownership, members = made()
    ownership.leave(1.0)
    out = turns(ownership, members, 1.0)
    assert not any(isinstance(event, o.HandedOver) for turn in out for event in turn), "nobody has taken anything yet"
    offered = {key for _, message in members.take_sent() for key in message.keys}
    assert offered == OURS


def test_a_leaver_whose_groups_come_last_is_not_done_before_it_has_come_to_them() -> None:
    others = sorted(set(KEYS) - OURS)[: 2 * machine.SLICE]
    mine = max(OURS)
    members, ownership = Members("n1", **dict.fromkeys(NODES, Tier.SETTLED)), Ownership("n1", 0.0)
    ownership.follow(members, 0.0)  # type: ignore[arg-type]
    ownership.complete(0.0)
    ownership.replace([group(key) for key in (*others, mine)], 0.0)
    turns(ownership, members, 0.0)
    ownership.leave(1.0)
    assert not any(isinstance(event, o.HandedOver) for turn in turns(ownership, members, 1.0) for event in turn)
    assert {key for _, message in members.take_sent() for key in message.keys} == {mine}
    assert ownership.owned().keys() == {mine}, "it answers until somebody has taken over"


def test_who_may_own_nothing_gives_up_everything_at_once() -> None:
    ownership, members = made()
    members.tier("n2", Tier.SILENT, m.Left("n2"))
    follow(ownership, members, 1.0)  # in the middle of it
    members.ready = False
    lost = {event.key for event in follow(ownership, members, 1.0) if isinstance(event, o.Lost)}
    assert lost >= OURS
    assert not ownership.owned()


def test_a_group_that_goes_while_it_waits_is_forgotten() -> None:
    ownership, members = made()
    key = max(HEIRED)
    members.tier("n2", Tier.SILENT, m.Left("n2"))
    follow(ownership, members, 1.0)
    ownership.replace([group(key)], 1.0)
    turns(ownership, members, 1.0)
    assert ownership.owned().keys() == {key}
