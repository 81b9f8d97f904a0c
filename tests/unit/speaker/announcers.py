"""Announcers put together over a fake network, in virtual time: real membership and ownership, no socket."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from metallb_common.obs.metrics import Registry
from metallb_speaker import stream
from metallb_speaker.announcer.announcer import Announcer
from metallb_speaker.announcer.edge.layer2_fake import FakeLayer2
from metallb_speaker.announcer.edge.udp import FakeNetwork
from metallb_speaker.announcer.membership.keys import NO_KEYS, Keyring
from metallb_speaker.announcer.membership.swim import Membership
from metallb_speaker.announcer.ownership.machine import Ownership
from metallb_speaker.desired import AnnouncedAddress, Item, Layer2Group, Member

PORT = 7946
NODES = ("n1", "n2", "n3")
IP = "192.0.2.1"


class Node:
    """One announcer with its fakes and its own stream."""

    def __init__(self, sim: Sim, name: str, number: int, *, keys: bool = True) -> None:
        self.name, self.address = name, f"10.0.0.{number}"
        self.reader, self.writer = stream.DesiredReader(), stream.DesiredWriter()
        self.reader.connected()
        self.reader.receive(stream.hello("1"))
        self.layer2 = FakeLayer2(f"02:00:00:00:00:{number:02x}")
        self.udp = sim.network.bind(self.address, PORT)
        self.registry = Registry(process=False)
        self.reports: list[stream.Report] = []
        self.deaf = False  # nobody takes its reports
        keyring = Keyring.from_text("secret") if keys else NO_KEYS
        self.announcer = Announcer(
            name,
            self.reader,
            self.layer2,
            Membership(name, keyring, rng=Random(number), now=sim.now, address=self.address, port=PORT),
            Ownership(name, sim.now),
            self.registry,
            send=self.udp.send,
            report=self.report,
        )
        self.layer2.open(sim.now)
        self.running = True

    def report(self, report: stream.Report) -> bool:
        if not self.deaf:
            self.reports.append(report)
        return not self.deaf

    @property
    def owned(self) -> set[str]:
        return {a for group in self.layer2.owned.values() for a in group.addresses}


class Sim:
    """Virtual time in steps of ten milliseconds."""

    def __init__(self, *names: str, keys: bool = True) -> None:
        self.now = 100.0
        self.network = FakeNetwork()
        self.nodes = {name: Node(self, name, i, keys=keys) for i, name in enumerate(names, 1)}

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.01
            for node in self.nodes.values():
                if node.running:
                    self.turn(node)

    def turn(self, node: Node) -> None:
        announcer = node.announcer
        if announcer.membership.turn(self.now):
            node.udp.drain()
        for data, source in node.udp.receive():
            announcer.membership.receive(data, source, self.now)
        for source_ in (announcer.membership, announcer.ownership):
            if source_.deadline() <= self.now:
                source_.on_deadline(self.now)
        announcer.settle(self.now)

    def members(self) -> list[Member]:
        return [Member(n.name, (n.address,), True) for n in self.nodes.values()]

    def tell(self, *put: Item, drop: Sequence[stream.Key] = (), why: dict[str, str] | None = None) -> None:
        for node in self.nodes.values():
            node.writer.change([*self.members(), *put], drop, why)
            for event in node.reader.receive(b"".join(node.writer.take())):
                node.announcer.on_stream(event, self.now)

    def owners(self, ip: str) -> list[str]:
        return [n.name for n in self.nodes.values() if n.running and ip in n.owned]


def group(ip: str, *candidates: str, services: tuple[str, ...] = ("ns/a",), **more: Any) -> Layer2Group:
    return Layer2Group(ip, (AnnouncedAddress(ip, services, "pool"),), candidates, **more)
