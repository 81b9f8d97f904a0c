"""The whole machine in virtual time: what is sent, when, and what is told."""

from __future__ import annotations

import ipaddress

import pytest

from metallb_speaker.announcer.layer2 import api, arp
from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2.duplicate import GRACE
from metallb_speaker.announcer.layer2.gratuitous import RARELY, SPACED
from metallb_speaker.announcer.layer2.interfaces import (
    IFF_LOWER_UP,
    IFF_UP,
    Link,
    OnLink,
    Snapshot,
    packed,
)
from metallb_speaker.announcer.layer2.machine import BURST, PLUGGED, Layer2Machine
from tests.unit.speaker.layer2.world import (
    BOTH,
    LINKS,
    MAC0,
    MAC1,
    NETWORKS,
    SNAPSHOT,
    STRANGER,
    UP,
    V4,
    V6,
    World,
    asks,
    group,
    holds,
    is_announcement,
    is_probe,
    many,
)


@pytest.mark.parametrize("address", [V4, V6])
def test_take_over_probes_then_answers_and_announces(address: str) -> None:
    world = World()
    world.set(group(address))
    assert [is_probe(frame) for _, _, frame in world.take()] == [True]
    world.hear(asks(address))
    assert world.take() == []  # under check
    assert world.machine.deadline() == pytest.approx(100 + GRACE)
    world.run(GRACE)
    frames = [frame for _, _, frame in world.take()]
    assert [is_announcement(frame) for frame in frames] == [True] * (2 if address == V4 else 1)
    assert world.told == [api.Announcing(address, "eth0")]
    world.hear(asks(address))
    assert len(world.take()) == 1


@pytest.mark.parametrize("address", [V4, V6])
def test_announcements_are_repeated_spaced_then_rarely_for_ever(address: str) -> None:
    world = World()
    world.set(group(address, check=False))
    world.run(1000)
    times = sorted({round(at - 100, 6) for at, _, frame in world.take() if is_announcement(frame)})
    assert times[: len(SPACED)] == list(SPACED)
    rare = [later - earlier for earlier, later in zip(times[len(SPACED) - 1 :], times[len(SPACED) :], strict=False)]
    assert len(rare) >= 7
    assert all(RARELY * 0.75 <= gap <= RARELY for gap in rare)


def test_an_ordered_hand_over_needs_no_check() -> None:
    world = World()
    world.set(group(V4, V6, check=False))
    assert all(is_announcement(frame) for _, _, frame in world.take())
    world.hear(asks(V4))
    world.hear(asks(V6))
    assert len(world.take()) == 2


def test_renewal_announces_from_the_beginning_and_counts_on() -> None:
    world = World()
    world.set(group(V4, check=False))
    world.run(50)
    world.hear(asks(V4))
    world.take()
    world.machine.renew([V4, "10.9.0.77"], world.now)
    world.run(0.3)
    assert [round(at - 150, 6) for at, _, _ in world.take()] == [0, 0, 0.25, 0.25]
    assert world.machine.counters()["responses_sent", V4] == 1


@pytest.mark.parametrize("address", [V4, V6])
def test_withdrawal_ends_answers_announcements_and_series(address: str) -> None:
    world = World()
    world.set(group(address, check=False))
    assert world.machine.counters()["gratuitous_sent", address] > 0
    world.set({})
    world.take()
    world.hear(asks(address))
    world.run(1000)
    assert world.take() == []
    assert world.machine.counters() == {}
    assert world.machine.deadline() == api.NEVER


def test_an_address_that_stays_is_left_alone() -> None:
    """Another Service joins the address, or its group is renamed: nothing is sent, nothing is silent."""
    world = World()
    world.set(group(V4, check=False))
    world.run(20)
    world.take()
    world.set(group(V4, "10.9.0.101", check=False))
    assert {arp.decode(frame).tpa for _, _, frame in world.take()} == {packed("10.9.0.101")}
    world.set({"renamed": api.OwnedGroup("renamed", (V4, "10.9.0.101"))})
    assert world.take() == []
    world.hear(asks(V4))
    assert len(world.take()) == 1


def test_two_groups_may_hold_one_address() -> None:
    world = World()
    world.set({name: api.OwnedGroup(name, (V4,), check=False) for name in ("a", "b")})
    world.set({"b": api.OwnedGroup("b", (V4,), check=False)})
    world.take()
    world.hear(asks(V4))
    assert len(world.take()) == 1


def test_known_before_the_interfaces_are() -> None:
    machine = Layer2Machine()
    machine.set(group(V4), 1.0)
    assert machine.deadline() == api.NEVER
    machine.links(SNAPSHOT, 2.0)
    machine.on_deadline(2.0)
    assert [(index, is_probe(frame)) for index, frame in machine.pending()] == [(2, True)]


@pytest.mark.parametrize(
    ("patterns", "where"),
    [
        ({}, {2, 3}),
        ({"interfaces": ("eth1",)}, {3}),
        ({"interfaces": ("eth*",), "exclude_interfaces": ("*0",)}, {3}),
        ({"exclude_interfaces": ("eth1",)}, {2}),
        ({"interfaces": ("bond*",)}, set()),
    ],
)
def test_patterns_choose_the_interfaces(patterns: dict[str, tuple[str, ...]], where: set[int]) -> None:
    world = World(BOTH)
    world.set(group(V4, check=False, **patterns))
    assert {index for _, index, _ in world.take()} == where
    for index in (2, 3):
        world.hear(asks(V4), index)
    assert {index for _, index, _ in world.take()} == where
    assert (api.Unreachable(V4) in world.told) is (not where)


def test_an_interface_appears_and_vanishes() -> None:
    world = World()
    world.set(group(V4, check=False))
    world.run(5)
    world.take()
    world.machine.links(BOTH, world.now)
    world.machine.on_deadline(world.now)
    world.flush()
    assert {index for _, index, _ in world.take()} == {3}
    assert api.InterfacesChanged(("eth0", "eth1")) in world.told
    world.machine.links(Snapshot(LINKS[1:]), world.now)
    assert 2 in {index for index, _ in world.machine.take_changed()}
    assert world.machine.port(2) is None
    world.hear(asks(V4), 2)
    world.run(1000)
    assert {index for _, index, _ in world.take()} == {3}


def test_pods_that_come_and_go_matter_to_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.set(many(300))
    world.run(1)
    placed: list[str] = []
    place = Layer2Machine._place
    monkeypatch.setattr(Layer2Machine, "_place", lambda *a: (placed.append(a[1].key), place(*a))[1])
    for number in range(3):
        pod = Link(90 + number, f"veth{number}", UP, mac=bytes((2, 0, 0, 0, 9, number)), kind="veth")
        world.machine.links(Snapshot((*LINKS[:1], pod), NETWORKS), world.now)
    assert placed == []
    assert world.machine.status()["interfaces"]["veth2"] == "virtual"
    # An interface that does matter is found by all, some groups at a time.
    world.machine.links(Snapshot((*BOTH.links, pod), NETWORKS), world.now)
    assert 0 < len(placed) < 100
    world.run(0.01)
    assert len(placed) == 300
    assert {index for index, _ in world.machine._holders} == {2, 3}


def test_what_happens_while_thousands_wait_for_a_new_interface() -> None:
    world = World()
    groups = many(500)
    world.set(groups)
    world.run(1)
    world.take()
    keys = list(groups)
    world.machine.links(BOTH, world.now)
    assert world.machine.behind
    gone, other = keys[-1], keys[-2]
    world.machine.change(
        {gone: None, other: api.OwnedGroup(other, (other,), exclude_interfaces=("eth1",), check=False)}, world.now
    )
    world.run(1)
    assert not world.machine.behind
    world.take()
    for key, where in ((keys[0], {2, 3}), (keys[-3], {2, 3}), (other, {2}), (gone, set())):
        for index in (2, 3):
            world.hear(asks(key), index)
        assert {index for _, index, _ in world.take()} == where, key
    # And it goes again while they are about to be found there.
    world.machine.links(SNAPSHOT, world.now)
    world.machine.links(BOTH, world.now)
    world.machine.links(SNAPSHOT, world.now)
    world.run(1)
    assert {index for index, _ in world.machine._holders} == {2}
    assert world.machine.counters().keys() == {(metric, key) for metric in api.METRICS for key in keys if key != gone}


def test_a_new_mac_address_is_announced() -> None:
    world = World()
    world.set(group(V4, check=False))
    world.run(50)
    world.take()
    world.machine.links(Snapshot((Link(2, "eth0", UP, mac=MAC1),), NETWORKS), world.now)
    world.machine.on_deadline(world.now)
    world.flush()
    assert {arp.decode(frame).sha for _, _, frame in world.take()} == {MAC1}


def test_another_mac_address_is_told_to_the_members() -> None:
    """A bridge takes its first port's, a bond its active port's: the others must not take it for a stranger's."""
    world = World()
    world.machine.links(Snapshot((Link(2, "eth0", UP, mac=MAC1),), NETWORKS), world.now)
    world.flush()
    assert world.told == [api.InterfacesChanged(("eth0",))]
    assert world.machine.own_macs() == (eth.mac_text(MAC1),)


def test_a_cable_that_comes_back_is_announced_on() -> None:
    world = World()
    world.set(group(V4, check=False))
    world.run(50)
    world.take()
    world.machine.links(Snapshot((Link(2, "eth0", UP & ~IFF_LOWER_UP, mac=MAC0),), NETWORKS), world.now)
    world.run(1)
    assert world.take() == []
    world.machine.links(SNAPSHOT, world.now)
    world.run(0.2)
    assert world.take() == [], "others may have taken over meanwhile: they are heard first"
    world.run(0.4)
    assert len(world.take()) == 4


def test_a_stale_owner_whose_cable_comes_back_announces_nothing() -> None:
    """It learns within that time that it was replaced."""
    world = World()
    world.set(group(V4, check=False))
    world.run(50)
    world.machine.links(Snapshot((Link(2, "eth0", UP & ~IFF_LOWER_UP, mac=MAC0),), NETWORKS), world.now)
    world.run(1)
    world.take()
    world.machine.links(SNAPSHOT, world.now)
    world.run(0.2)
    world.set({})
    world.run(60)
    assert world.take() == []


@pytest.mark.parametrize("down", [UP & ~IFF_LOWER_UP, UP & ~IFF_UP])
def test_an_interface_that_is_up_again_is_announced_on_when_the_others_could_be_heard(down: int) -> None:
    world = World()
    world.set(group(V4, check=False))
    world.run(50)
    world.machine.links(Snapshot((Link(2, "eth0", down, mac=MAC0),), NETWORKS), world.now)
    world.run(1)
    world.machine.links(SNAPSHOT, world.now)
    world.take()
    begin = world.now
    world.run(PLUGGED + 0.1)
    announced = [when for when, _, frame in world.take() if arp.decode(frame).is_gratuitous]
    assert announced[0] - begin == pytest.approx(PLUGGED)
    world.machine.links(Snapshot((Link(2, "eth0", down, mac=MAC0),), NETWORKS), world.now)
    world.run(1)
    world.machine.links(SNAPSHOT, world.now)
    world.run(PLUGGED - 0.05)
    world.set({})
    world.take()
    world.run(60)
    assert world.take() == [], "it learnt in time that it was replaced"


def test_the_count_of_announcements_ends_with_ownership_though_the_interface_went_first() -> None:
    world = World()
    world.set(group(V4, check=False))
    assert world.machine.counters()["gratuitous_sent", V4] == 2
    world.machine.links(Snapshot(), world.now)
    world.set({})
    world.machine.links(SNAPSHOT, world.now)
    world.set(group(V4, check=False))
    assert world.machine.counters()["gratuitous_sent", V4] == 2


def test_a_thousand_addresses_do_not_hold_the_loop_up() -> None:
    world = World()
    addresses = [str(ipaddress.ip_address("10.20.0.0") + n) for n in range(1000)]
    world.machine.set({a: api.OwnedGroup(a, (a,)) for a in addresses}, world.now)
    turns = 0
    while world.machine.deadline() <= world.now + 0.01 and turns < 1000:
        world.now = max(world.now, world.machine.deadline())
        world.machine.on_deadline(world.now)
        assert len(world.machine.pending()) <= 3 * BURST
        world.machine.take_changed()
        turns += 1
    assert len([e for e in world.machine.events() if isinstance(e, api.Announcing)]) == 1000
    assert turns >= 1000 / BURST


def test_on_link_is_what_a_used_interface_reaches() -> None:
    machine = Layer2Machine()
    down = Link(3, "eth1", 0, mac=MAC1)
    machine.links(Snapshot((LINKS[0], down), (*NETWORKS, OnLink(3, ipaddress.ip_network("10.8.0.0/24")))), 1.0)
    assert machine.on_link([V4, V6, "10.8.0.1", "192.0.2.1", "2001:db8::1"]) == {V4, V6}
    assert machine.own_macs() == (eth.mac_text(MAC0),)


def test_macs_of_interfaces_with_a_connected_route_come_first() -> None:
    macs = [bytes((2, 0, 0, 0, 1, n)) for n in range(12)]
    links = tuple(Link(20 + n, f"eth{n}", UP, mac=mac) for n, mac in enumerate(macs))
    beside = OnLink(20, ipaddress.ip_network("fe80::/64"))
    machine = Layer2Machine()
    machine.links(Snapshot(links, (beside, OnLink(31, ipaddress.ip_network("10.9.0.0/24")))), 1.0)
    assert machine.own_macs() == tuple(eth.mac_text(mac) for mac in (macs[11], *macs[:11]))


def test_prefixes_are_those_of_used_interfaces_without_link_local_ones() -> None:
    networks = (*NETWORKS, OnLink(2, ipaddress.ip_network("fe80::/64")), OnLink(3, ipaddress.ip_network("10.8.0.0/16")))
    world = World(Snapshot(LINKS[:1], networks))
    assert world.machine.prefixes() == ("10.9.0.0/24", "fd09::/64")
    world.machine.links(Snapshot(LINKS, networks), world.now)
    assert world.machine.prefixes() == ("10.8.0.0/16", "10.9.0.0/24", "fd09::/64")


def test_dark_are_the_prefixes_that_no_interface_with_a_carrier_has() -> None:
    both = (*NETWORKS, OnLink(3, ipaddress.ip_network("10.9.0.0/24")))
    world = World(Snapshot(LINKS, both))
    assert world.machine.dark() == ()
    unplugged = Link(2, "eth0", UP & ~IFF_LOWER_UP, mac=MAC0)
    world.machine.links(Snapshot((unplugged, LINKS[1]), both), world.now)
    world.flush()
    assert world.machine.dark() == ("fd09::/64",), "the other is on eth1, too"
    assert world.machine.prefixes() == ("10.9.0.0/24", "fd09::/64")
    assert world.told == [api.InterfacesChanged(("eth0", "eth1"))]


def test_an_interface_that_only_a_group_names_is_told_of_like_the_others() -> None:
    """Its name looks like a container's: left alone, unless written out. Else its frames would be a foreign host's."""
    bridge = Link(7, "br-0123456789ab", UP, mac=MAC1, kind="bridge")
    beside = OnLink(7, ipaddress.ip_network("10.8.0.0/24"))
    world = World(Snapshot((LINKS[0], bridge), (*NETWORKS, beside)))
    mine = eth.mac_text(MAC0)
    assert world.machine.own_macs() == (mine,)
    assert "10.8.0.0/24" not in world.machine.prefixes()
    world.set(group("10.8.0.100", interfaces=("br-0123456789ab",)))
    assert world.told[0] == api.InterfacesChanged(("eth0",))
    assert world.machine.own_macs() == (mine, eth.mac_text(MAC1))
    assert "10.8.0.0/24" in world.machine.prefixes()
    assert world.machine.on_link({"10.8.0.100"}) == {"10.8.0.100"}
    # Of pods that come and go, with routes of their own, nobody is told.
    world.told.clear()
    pods = [Link(20 + i, f"cali{i}", UP, mac=bytes((2, 0, 0, 0, 1, i)), kind="veth") for i in range(3)]
    routes = [OnLink(20 + i, ipaddress.ip_network(f"10.244.0.{i}/32")) for i in range(3)]
    for count in (1, 3, 0):
        shown = Snapshot((LINKS[0], bridge, *pods[:count]), (*NETWORKS, beside, *routes[:count]))
        world.machine.links(shown, world.now)
        world.flush()
    assert [told for told in world.told if isinstance(told, api.InterfacesChanged)] == []
    world.machine.links(Snapshot(LINKS[:1], NETWORKS), world.now)
    world.flush()
    assert api.InterfacesChanged(("eth0",)) in world.told, "the bridge is gone"
    assert world.machine.own_macs() == (mine,)


def test_status_tells_all() -> None:
    world = World(BOTH)
    world.set(group(V4, interfaces=("eth0",)))
    world.hear(holds(V4, STRANGER))
    assert world.machine.status() == {
        "interfaces": {"eth0": "used", "eth1": "used"},
        "addresses": {V4: {"eth0": "withheld"}},
        "conflicts": {f"{V4} on eth0": STRANGER},
        "unreachable": [],
    }


def test_two_machines_hand_an_address_over() -> None:
    """The successor announces while the old owner still answers; at no time is nobody there."""
    old, new = World(), World(Snapshot((Link(2, "eth0", UP, mac=MAC1),), NETWORKS))
    for world in (old, new):
        world.machine.set_members([eth.mac_text(MAC0), eth.mac_text(MAC1)])
    old.set(group(V4, V6, check=False))
    old.run(20)
    old.take()
    new.set(group(V4, V6))
    for _ in range(3):
        for a, b in ((new, old), (old, new)):
            for _, _, frame in a.take():
                b.hear(frame)
        new.run(GRACE)
        old.run(GRACE)
    assert [event for event in old.told if isinstance(event, api.Claimed)]
    assert [event for event in new.told if isinstance(event, api.Announcing)]
    assert not new.machine.conflicts()
    assert not old.machine.conflicts()
