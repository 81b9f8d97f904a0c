"""The whole machine in virtual time: what is sent, when, and what is told."""

from __future__ import annotations

import ipaddress

import pytest

from metallb_speaker.announcer.layer2 import api, arp, ndp
from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2.duplicate import GRACE
from metallb_speaker.announcer.layer2.gratuitous import RARELY, SPACED
from metallb_speaker.announcer.layer2.interfaces import (
    IFF_BROADCAST,
    IFF_LOWER_UP,
    IFF_UP,
    Link,
    OnLink,
    Snapshot,
    packed,
)
from metallb_speaker.announcer.layer2.machine import BURST, Layer2Machine

UP = IFF_UP | IFF_BROADCAST | IFF_LOWER_UP
MAC0, MAC1 = bytes.fromhex("020000000010"), bytes.fromhex("020000000011")
MEMBER, STRANGER = "02:00:00:00:00:20", "02:00:00:00:00:99"
LINKS = (Link(2, "eth0", UP, mac=MAC0), Link(3, "eth1", UP, mac=MAC1))
NETWORKS = (OnLink(2, ipaddress.ip_network("10.9.0.0/24")), OnLink(2, ipaddress.ip_network("fd09::/64")))
SNAPSHOT = Snapshot(LINKS[:1], NETWORKS)
BOTH = Snapshot(LINKS, NETWORKS)
V4, V6 = "10.9.0.100", "fd09::100"


def group(*addresses: str, check: bool = True, **patterns: tuple[str, ...]) -> dict[str, api.OwnedGroup]:
    return {addresses[0]: api.OwnedGroup(addresses[0], addresses, check=check, **patterns)}


class World:
    """A machine and its clock; everything it sent, with the time."""

    def __init__(self, snapshot: Snapshot = SNAPSHOT) -> None:
        self.now = 100.0
        self.machine = Layer2Machine()
        self.sent: list[tuple[float, int, bytes]] = []
        self.told: list[api.Event] = []
        self.machine.links(snapshot, self.now)
        self.flush()
        self.told.clear()

    def flush(self) -> None:
        self.machine.take_changed()
        self.sent += [(self.now, index, frame) for index, frame in self.machine.pending()]
        self.told += self.machine.events()

    def set(self, groups: dict[str, api.OwnedGroup]) -> None:
        self.machine.set(groups, self.now)
        self.machine.on_deadline(self.now)
        self.machine.on_deadline(self.now)
        self.flush()

    def run(self, seconds: float) -> None:
        """Let time pass: every deadline is kept exactly."""
        end = self.now + seconds
        while self.machine.deadline() <= end:
            self.now = max(self.now, self.machine.deadline())
            self.machine.on_deadline(self.now)
            self.flush()
        self.now = end

    def hear(self, frame: bytes, interface: int = 2) -> None:
        self.machine.receive(frame, interface, self.now)
        self.flush()

    def take(self) -> list[tuple[float, int, bytes]]:
        out, self.sent = self.sent, []
        return out


def asks(address: str, mac: str = STRANGER) -> bytes:
    sender = eth.mac_bytes(mac)
    if ":" in address:
        ip, group = packed(address), ndp.solicited_node(packed(address))
        source = ndp.link_local(sender)
        return ndp.Neighbor(
            ndp.multicast_mac(group), sender, source, group, ndp.SOLICITATION, ip, link_layer=sender
        ).encode()
    return arp.request(sender, packed("10.9.0.7"), packed(address))


def holds(address: str, mac: str, to: bytes = MAC0) -> bytes:
    """The answer of a host that has `address` to our probe."""
    sender, ip = eth.mac_bytes(mac), packed(address)
    if ":" in address:
        return ndp.Neighbor(
            to, sender, ip, ndp.link_local(to), ndp.ADVERTISEMENT, ip, ndp.SOLICITED | ndp.OVERRIDE, sender
        ).encode()
    return arp.Arp(to, sender, arp.REPLY, sender, ip, to, bytes(4)).encode()


def claims(address: str, mac: str) -> bytes:
    sender, ip = eth.mac_bytes(mac), packed(address)
    return ndp.announcement(sender, ip) if ":" in address else arp.announcements(sender, ip)[0]


def is_probe(frame: bytes) -> bool:
    if frame[12:14] == b"\x08\x06":
        return arp.decode(frame).is_probe
    return ndp.decode(frame).kind == ndp.SOLICITATION


def is_announcement(frame: bytes) -> bool:
    if frame[12:14] == b"\x08\x06":
        return arp.decode(frame).is_gratuitous
    message = ndp.decode(frame)
    return message.kind == ndp.ADVERTISEMENT and message.destination == ndp.ALL_NODES


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


def test_a_new_mac_address_is_announced() -> None:
    world = World()
    world.set(group(V4, check=False))
    world.run(50)
    world.take()
    world.machine.links(Snapshot((Link(2, "eth0", UP, mac=MAC1),), NETWORKS), world.now)
    world.machine.on_deadline(world.now)
    world.flush()
    assert {arp.decode(frame).sha for _, _, frame in world.take()} == {MAC1}


def test_a_cable_that_comes_back_is_announced_on() -> None:
    world = World()
    world.set(group(V4, check=False))
    world.run(50)
    world.take()
    world.machine.links(Snapshot((Link(2, "eth0", UP & ~IFF_LOWER_UP, mac=MAC0),), NETWORKS), world.now)
    world.run(1)
    assert world.take() == []
    world.machine.links(SNAPSHOT, world.now)
    world.run(0.5)
    assert len(world.take()) == 4


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


# --- another host ------------------------------------------------------------------------------


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


# --- views -------------------------------------------------------------------------------------


def test_on_link_is_what_a_used_interface_reaches() -> None:
    machine = Layer2Machine()
    down = Link(3, "eth1", 0, mac=MAC1)
    machine.links(Snapshot((LINKS[0], down), (*NETWORKS, OnLink(3, ipaddress.ip_network("10.8.0.0/24")))), 1.0)
    assert machine.on_link([V4, V6, "10.8.0.1", "192.0.2.1", "2001:db8::1"]) == {V4, V6}
    assert machine.own_macs() == (eth.mac_text(MAC0),)


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
