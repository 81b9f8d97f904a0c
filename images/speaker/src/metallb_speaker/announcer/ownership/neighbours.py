"""MAC addresses of members that membership does not hear: their nodes' kernels answer for the nodes' own addresses.

Members tell each other their MAC addresses. Where UDP is blocked, or membership is off, nobody does; then a member's
frames would be taken for a foreign host's, and two who both own an address could not settle it. So such a node is asked
for on the wire by the addresses that the cluster lists for it, a few at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from metallb_speaker.announcer.membership.events import Standing, Tier

#: Seconds that a member has to be heard: at most starts it is, at once.
PATIENCE = 0.3
#: Seconds from one question about a node to the next, the last one for ever: it may be on another segment.
PAUSES = (0.2, 0.5, 2.0, 10.0, 60.0)
#: Nodes asked about at once, and the seconds after which that many more may be: hundreds of nodes do this at one time.
BURST, BURST_EVERY = 8, 1.0
#: MAC addresses kept of one node.
MACS = 8
NEVER = float("inf")


@dataclass(slots=True)
class _Asked:
    addresses: tuple[str, ...]
    next_at: float = -NEVER  # not thought about yet
    tries: int = 0
    macs: tuple[str, ...] = ()
    away: bool = False  # it was: when it is back it may have got another network card


class Neighbours:
    """Who has which MAC address, as far as the wire tells."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Asked] = {}
        self._by_address: dict[str, str] = {}
        self._by_mac: dict[str, str] = {}
        self._wanted: dict[str, None] = {}  # of these nothing is known yet
        self._burst_at = -NEVER
        self._left = BURST

    def set(self, addresses: Mapping[str, tuple[str, ...]]) -> None:
        """All other members that the cluster lists, and the addresses of their nodes."""
        before = self._nodes
        self._nodes = {}
        for name, listed in addresses.items():
            known = before.get(name)
            self._nodes[name] = known if known and known.addresses == listed else _Asked(listed)
        self._by_address = {address: name for name, asked in self._nodes.items() for address in asked.addresses}
        self._index()

    def _index(self) -> None:
        self._by_mac = {mac: name for name, asked in self._nodes.items() for mac in asked.macs}

    def follow(self, standings: Mapping[str, Standing]) -> None:
        """Who is not heard, as membership sees it now. What is known of those who went holds until they are back."""
        self._wanted = {}
        for name, asked in self._nodes.items():
            standing = standings.get(name)
            if standing is None or standing.tier is Tier.SILENT:
                asked.away, asked.tries, asked.next_at = True, 0, -NEVER
            elif standing.cluster_only and not standing.macs and (asked.away or not asked.macs):
                self._wanted[name] = None

    def due(self, now: float) -> list[str]:
        """Addresses to ask for now."""
        if now >= self._burst_at + BURST_EVERY:
            self._burst_at, self._left = now, BURST
        out: list[str] = []
        for name in self._wanted:
            asked = self._nodes[name]
            if asked.next_at == -NEVER:
                asked.next_at = now + PATIENCE
            if not self._left:
                break
            if now >= asked.next_at:
                self._left -= 1
                asked.next_at = now + PAUSES[min(asked.tries, len(PAUSES) - 1)]
                asked.tries += 1
                out += asked.addresses
        return out

    def deadline(self) -> float:
        """When `due` has something."""
        if not self._wanted:
            return NEVER
        soonest = min(self._nodes[name].next_at for name in self._wanted)
        return soonest if self._left else max(soonest, self._burst_at + BURST_EVERY)

    def answered(self, address: str, macs: Iterable[str]) -> str:
        """The wire's answer to a question: the node that is known by now, "" if that is no news."""
        name = self._by_address.get(address, "")
        asked = self._nodes.get(name)
        found = tuple(sorted(macs))[:MACS]
        if asked is None or not found:
            return ""
        self._wanted.pop(name, None)
        known = () if asked.away else asked.macs
        asked.away = False
        if set(found) <= set(known):
            return ""
        asked.macs = tuple(dict.fromkeys((*known, *found)))[:MACS]
        self._index()
        return name

    def node_of(self, mac: str) -> str:
        """The member's node that has this MAC address; "" for nobody's."""
        return self._by_mac.get(mac, "")

    def macs(self, name: str) -> tuple[str, ...]:
        """What is known of one node."""
        asked = self._nodes.get(name)
        return asked.macs if asked else ()

    def all(self) -> dict[str, list[str]]:
        """What is known, by node."""
        return {name: list(asked.macs) for name, asked in sorted(self._nodes.items()) if asked.macs}

    def known(self) -> tuple[str, ...]:
        """All MAC addresses that are known."""
        return tuple(self._by_mac)
