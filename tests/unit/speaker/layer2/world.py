"""A layer 2 machine with interfaces, in virtual time, and the frames of other hosts."""

from __future__ import annotations

import ipaddress

from metallb_speaker.announcer.layer2 import api, arp, ndp
from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2.interfaces import (
    IFF_BROADCAST,
    IFF_LOWER_UP,
    IFF_UP,
    Link,
    OnLink,
    Snapshot,
    packed,
)
from metallb_speaker.announcer.layer2.machine import Layer2Machine

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


def many(count: int) -> dict[str, api.OwnedGroup]:
    addresses = [str(ipaddress.ip_address("10.20.0.0") + n) for n in range(count)]
    return {a: api.OwnedGroup(a, (a,), check=False) for a in addresses}
