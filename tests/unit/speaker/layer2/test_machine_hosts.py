"""What the layer 2 machine makes of other hosts: foreign ones, members, probes."""

from __future__ import annotations

import pytest

from metallb_speaker.announcer.layer2 import api
from metallb_speaker.announcer.layer2 import ethernet as eth
from tests.unit.speaker.layer2.world import (
    BOTH,
    MAC1,
    MEMBER,
    STRANGER,
    V4,
    V6,
    World,
    asks,
    claims,
    group,
    holds,
    is_announcement,
    is_probe,
)


@pytest.mark.parametrize("address", [V4, V6])
def test_a_foreign_host_that_answers_the_first_probe_is_respected(address: str) -> None:
    world = World()
    world.set(group(address))
    world.hear(holds(address, STRANGER))
    assert world.told == [api.Conflict(address, "eth0", STRANGER, withheld=True)]
    assert world.machine.conflicts() == {(address, "eth0"): STRANGER}
    world.take()
    world.run(2)
    world.hear(asks(address))
    assert [frame for _, _, frame in world.take() if not is_probe(frame)] == []
    # It goes on answering our probes for a while, then it is gone.
    for _ in range(3):
        world.run(3)
        world.hear(holds(address, STRANGER))
    world.told.clear()
    world.run(12)
    assert world.told == [api.Announcing(address, "eth0"), api.ConflictGone(address, "eth0")]
    assert world.machine.conflicts() == {}
    world.take()
    world.hear(asks(address))
    assert len(world.take()) == 1


@pytest.mark.parametrize("address", [V4, V6])
def test_a_slow_foreign_host_makes_us_step_back(address: str) -> None:
    world = World()
    world.set(group(address))
    world.run(0.5)
    world.hear(holds(address, STRANGER))
    world.take()
    world.hear(asks(address))
    assert world.take() == []
    assert world.told[-1] == api.Conflict(address, "eth0", STRANGER, withheld=True)


@pytest.mark.parametrize("address", [V4, V6])
def test_a_settled_address_is_defended_but_not_shouted_for(address: str) -> None:
    """RFC 5227 section 2.4 (b): at most one announcement in ten seconds."""
    world = World()
    world.set(group(address))
    world.run(40)
    world.take()
    world.told.clear()
    for _ in range(5):
        world.hear(claims(address, STRANGER))
    assert len([1 for _, _, frame in world.take() if is_announcement(frame)]) == (2 if address == V4 else 1)
    assert world.told == [api.Conflict(address, "eth0", STRANGER, withheld=False)]
    world.hear(asks(address))
    assert len(world.take()) == 1
    for _ in range(10):
        world.run(2)
        world.hear(claims(address, STRANGER))
    defences = [frame for _, _, frame in world.take() if is_announcement(frame)]
    assert 2 <= len(defences) // (2 if address == V4 else 1) <= 3
    assert len(world.told) == 1  # told once
    world.run(11)
    assert world.told[-1] == api.ConflictGone(address, "eth0")


@pytest.mark.parametrize("address", [V4, V6])
def test_members_are_not_foreign(address: str) -> None:
    world = World()
    world.machine.set_members([MEMBER])
    world.set(group(address))
    world.hear(holds(address, MEMBER))
    world.run(40)
    assert world.told == [api.Announcing(address, "eth0")]
    world.hear(claims(address, MEMBER))
    assert world.told[1:] == [api.Claimed(address, "eth0", MEMBER)]
    assert world.machine.conflicts() == {}


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize("settled", [False, True])
def test_a_member_whose_mac_is_learnt_late_was_never_foreign(address: str, settled: bool) -> None:
    world = World()
    world.set(group(address))
    if settled:
        world.run(10)
    world.told.clear()
    world.hear(holds(address, MEMBER))
    assert world.told == [api.Conflict(address, "eth0", MEMBER, withheld=not settled)]
    world.machine.set_members([MEMBER])
    world.flush()
    assert world.told[-1] == api.ConflictGone(address, "eth0")
    assert world.machine.conflicts() == {}
    world.take()
    world.hear(asks(address))
    assert len(world.take()) == 1, "it answers, without waiting for the other to be silent"


@pytest.mark.parametrize("address", [V4, V6])
def test_forged_frames_do_not_fill_memory_or_log(address: str) -> None:
    world = World()
    world.machine.set_members([MEMBER])
    world.set(group(address))
    world.run(40)
    world.told.clear()
    world.machine.probe(address, world.now, 0.05)
    for number in range(500):
        world.hear(claims(address, f"02:00:00:01:{number // 256:02x}:{number % 256:02x}"))
        world.hear(claims(address, MEMBER))
    world.run(0.06)
    assert [type(event) for event in world.told] == [api.Conflict, api.Claimed, api.ProbeResult]
    result = world.told[-1]
    assert isinstance(result, api.ProbeResult)
    assert len(result.macs) <= 8


def test_our_own_second_interface_is_not_foreign() -> None:
    world = World(BOTH)
    world.set(group(V4, check=False))
    world.told.clear()
    world.hear(claims(V4, eth.mac_text(MAC1)), 2)
    assert world.told == []


def test_a_router_that_answers_for_everything_does_not_silence_us() -> None:
    """Proxy ARP: the address is not on-link here, so its answer is reported and no more."""
    world = World()
    world.set(group("192.0.2.1"))
    world.hear(holds("192.0.2.1", STRANGER))
    assert world.told == [
        api.Announcing("192.0.2.1", "eth0"),
        api.Conflict("192.0.2.1", "eth0", STRANGER, withheld=False),
    ]
    world.take()
    world.hear(asks("192.0.2.1"))
    assert len(world.take()) == 1


@pytest.mark.parametrize("address", [V4, V6])
def test_a_probe_tells_who_holds_an_address(address: str) -> None:
    world = World()
    world.machine.probe(address, world.now, 0.05)
    world.flush()
    assert [is_probe(frame) for _, _, frame in world.take()] == [True]
    world.hear(holds(address, MEMBER))
    world.hear(asks(address))
    assert world.take() == []
    world.run(0.06)
    assert world.told == [api.ProbeResult(address, (MEMBER,))]
    world.hear(holds(address, MEMBER))
    assert world.machine.drops() == {
        ("eth0", "foreignClaim"): 1,
        ("eth0", "checking"): 1,
        ("eth0", "notARequest"): 1,
    }


def test_a_probe_of_an_owned_address_changes_nothing() -> None:
    world = World()
    world.set(group(V4, check=False))
    world.machine.probe(V4, world.now, 0.05)
    world.run(0.1)
    assert api.ProbeResult(V4, ()) in world.told
    world.take()
    world.hear(asks(V4))
    assert len(world.take()) == 1


def test_questions_where_an_address_is_only_asked_for_are_not_counted() -> None:
    world = World(BOTH)
    world.set(group(V4, check=False, interfaces=("eth0",)))
    world.machine.probe(V4, world.now, 0.05)
    world.hear(asks(V4), 3)
    world.hear(asks(V4), 2)
    assert world.machine.counters()["requests_received", V4] == 1


def test_an_address_withdrawn_during_a_probe_is_silent() -> None:
    world = World()
    world.set(group(V4, check=False))
    world.machine.probe(V4, world.now, 0.05)
    world.set({})
    world.take()
    world.hear(asks(V4))
    assert world.take() == []
    world.run(0.1)
    world.hear(asks(V4))
    assert world.take() == []
