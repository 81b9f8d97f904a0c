"""Two BGP neighbours in one process, in virtual time, their bytes carried by hand."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from metallb_speaker.announcer.bgp.neighbor import Dial, Hangup, Neighbor, NeighborEvent
from metallb_speaker.announcer.bgp.settings import Address, Settings
from metallb_speaker.announcer.bgp.wire import update
from metallb_speaker.announcer.bgp.wire.capabilities import Family

HOPS_A: Mapping[Family, Address | None] = {
    "ipv4": ipaddress.ip_address("192.0.2.1"),
    "ipv6": ipaddress.ip_address("2001:db8::1"),
}
HOPS_B: Mapping[Family, Address | None] = {
    "ipv4": ipaddress.ip_address("192.0.2.2"),
    "ipv6": ipaddress.ip_address("2001:db8::2"),
}


def settings(name: str = "b", **changes: object) -> Settings:
    values: dict[str, object] = {
        "name": name,
        "my_asn": 64512,
        "peer_asn": 64513,
        "address": ipaddress.ip_address("192.0.2.2"),
        "identifier": ipaddress.IPv4Address("192.0.2.1"),
        **changes,
    }
    return Settings(**values)  # type: ignore[arg-type]


def settings_b(**changes: object) -> Settings:
    return settings(
        "a",
        **{
            "my_asn": 64513,
            "peer_asn": 64512,
            "address": ipaddress.ip_address("192.0.2.1"),
            "identifier": ipaddress.IPv4Address("192.0.2.2"),
            **changes,
        },
    )


@dataclass
class Pair:
    """`a` and `b`, and the connections between them: (dialer, its token, the other's token)."""

    a: Neighbor
    b: Neighbor
    reachable: bool = True
    b_listens: bool = True
    a_listens: bool = False
    now: float = 0.0
    links: list[tuple[Neighbor, int, Neighbor, int]] = field(default_factory=list)
    #: Everything that travelled, by sender's settings name.
    carried: dict[str, bytearray] = field(default_factory=lambda: {"a": bytearray(), "b": bytearray()})
    events: dict[str, list[NeighborEvent]] = field(default_factory=lambda: {"a": [], "b": []})

    @classmethod
    def make(cls, a: Settings | None = None, b: Settings | None = None, **kw: bool) -> Pair:
        return cls(Neighbor(a or settings(), random.Random(1)), Neighbor(b or settings_b(), random.Random(2)), **kw)

    def _name(self, side: Neighbor) -> str:
        return "a" if side is self.a else "b"

    def _hops(self, side: Neighbor) -> Mapping[Family, Address | None]:
        return HOPS_A if side is self.a else HOPS_B

    def settle(self) -> None:
        """Carry bytes and act on actions until nothing moves any more, at this instant."""
        moved = True
        while moved:
            moved = False
            for side, other in ((self.a, self.b), (self.b, self.a)):
                self.events[self._name(side)] += side.events()
                for action in side.actions():
                    moved = True
                    if isinstance(action, Dial):
                        self._connect(side, other, action)
                    else:
                        self._hangup(side, action)
            under_way = []  # all that is sent at one instant crosses, as on a real link
            for left, lt, right, rt in list(self.links):
                for source, st, target, tt in ((left, lt, right, rt), (right, rt, left, lt)):
                    if data := source.pending(st):
                        moved = True
                        self.carried[self._name(source)] += data
                        source.sent(st, len(data), self.now)
                        under_way.append((target, tt, data))
            for target, tt, data in under_way:
                target.receive(tt, data, self.now)

    def _connect(self, side: Neighbor, other: Neighbor, dial: Dial) -> None:
        listens = self.b_listens if other is self.b else self.a_listens
        if not (self.reachable and listens):
            side.dial_failed(dial.token, "connection refused", self.now)
            return
        token = other.accepted(self._hops(other), self.now)
        if token is None:
            side.dial_failed(dial.token, "connection reset", self.now)
            return
        self.links.append((side, dial.token, other, token))
        side.dialed(dial.token, self._hops(side), self.now)

    def _hangup(self, side: Neighbor, hangup: Hangup) -> None:
        for link in list(self.links):
            for me, mt, peer, pt in ((link[0], link[1], link[2], link[3]), (link[2], link[3], link[0], link[1])):
                if me is side and mt == hangup.token:
                    self.links.remove(link)
                    if self.reachable:
                        self.carried[self._name(side)] += hangup.last
                        if hangup.last:
                            peer.receive(pt, hangup.last, self.now)
                        peer.receive(pt, None, self.now)
                    return

    def run(self, seconds: float) -> None:
        """Let virtual time pass, stopping at every deadline."""
        end = self.now + seconds
        self.settle()
        while (soonest := min(self.a.deadline(), self.b.deadline())) <= end:
            self.now = max(self.now, soonest)
            self.a.on_deadline(self.now)
            self.b.on_deadline(self.now)
            self.settle()
        self.now = end

    def cut(self) -> None:
        """The cable is pulled: no byte arrives any more, no connection is closed."""
        self.links.clear()
        self.reachable = False

    def updates_from(self, side: str) -> list[update.Update]:
        """Every UPDATE that travelled from one side, decoded."""
        data, out, position = bytes(self.carried[side]), [], 0
        while position < len(data):
            length = int.from_bytes(data[position + 16 : position + 18])
            if data[position + 18] == 2:
                out.append(update.decode(data[position + 19 : position + length]))
            position += length
        return out
