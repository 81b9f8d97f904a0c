"""Which nodes have an address on-link: only those are of use to hosts that ask for it within its subnet.

Every member tells the others the prefixes that it has a connected route to. Where any candidate of a group has its
addresses on-link, those that are known not to have are passed over; of a member that has said nothing (an older
version, or never heard) nothing is known: it is passed over by nobody, and makes nobody else be. So nodes that
know less agree with those that know more whenever these have nothing to say, and never elect from fewer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from functools import lru_cache

from metallb_speaker.announcer.membership.events import Standing
from metallb_speaker.desired import Layer2Group

NOBODY: frozenset[str] = frozenset()


@lru_cache(maxsize=4096)
def _parsed(prefix: str) -> tuple[int, int, int]:
    """(bits of an address, bits of the prefix, prefix as a number)."""
    network = ipaddress.ip_network(prefix)
    bits = network.max_prefixlen
    return bits, network.prefixlen, int(network.network_address) >> (bits - network.prefixlen)


class OnLink:
    """All members' prefixes, asked by group."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, ...]] = {}
        self._nodes: dict[tuple[int, int], dict[int, set[str]]] = {}  # (bits, length) -> prefix -> nodes

    def update(self, standings: Mapping[str, Standing]) -> bool:
        """Take in what members say now; True if anything is different."""
        said = {name: s.prefixes for name, s in standings.items() if s.prefixes is not None}
        if said == self._said:
            return False
        self._said, self._nodes = said, {}
        for name, prefixes in said.items():
            for bits, length, number in map(_parsed, prefixes):
                self._nodes.setdefault((bits, length), {}).setdefault(number, set()).add(name)
        return True

    def nodes(self, ip: str) -> set[str]:
        """Those known to have `ip` on-link."""
        address = ipaddress.ip_address(ip)
        bits, number = address.max_prefixlen, int(address)
        found: set[str] = set()
        for (width, length), table in self._nodes.items():
            if width == bits:
                found |= table.get(number >> (bits - length), NOBODY)
        return found

    def off(self, group: Layer2Group) -> frozenset[str]:
        """Nodes of `group` that are passed over while another one is alive.

        Good is a node with all those of the group's addresses on-link that any of its nodes has; where there is no
        such node, one with the first of these addresses.
        """
        if not self._nodes:
            return NOBODY
        among = set(group.nodes)
        reached = [found for a in group.addresses if (found := self.nodes(a.ip) & among)]
        if not reached:
            return NOBODY
        good = set.intersection(*reached) or reached[0]
        return frozenset(self._known(among) - good)

    def _known(self, among: Iterable[str]) -> set[str]:
        return {name for name in among if name in self._said}
