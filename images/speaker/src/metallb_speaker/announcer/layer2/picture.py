"""The interfaces as one netlink snapshot shows them: which are in use, for which groups, what the others are told."""

from __future__ import annotations

from collections.abc import Collection

from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2.interfaces import Routes, Snapshot, judge, matches, packed


class Picture:
    """Of one snapshot. `matching`: the patterns of groups that were asked for -> interface indexes."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.snapshot = snapshot or Snapshot()
        self.links = {link.index: link for link in self.snapshot.links}
        self.reasons = judge(self.snapshot.links)
        self.routes = Routes(self.snapshot.on_link)
        self.link_local = dict(self.snapshot.link_local)
        self.macs = frozenset(link.mac for link in self.snapshot.links if link.mac)
        self.matching: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[int, ...]] = {}

    def told(self) -> tuple[object, ...]:
        """What `InterfacesChanged` is about."""
        return self.used(), self.own_macs(), self.prefixes(), self.dark()

    def usable(self) -> list[int]:
        return [index for index, reason in self.reasons.items() if not reason]

    def announcing(self) -> frozenset[int]:
        """Those in use, and others that a group names: there, too, are our frames and what is on-link."""
        return frozenset(self.usable()).union(*self.matching.values())

    def match(self, interfaces: tuple[str, ...], exclude: tuple[str, ...]) -> tuple[int, ...]:
        """The interfaces for groups with these patterns."""
        found = self.matching.get((interfaces, exclude))
        if found is None:
            found = tuple(i for i, link in self.links.items() if matches(link, self.reasons[i], interfaces, exclude))
            self.matching[interfaces, exclude] = found
        return found

    def used(self) -> tuple[str, ...]:
        """Names of the interfaces in use, sorted."""
        return tuple(sorted(self.links[index].name for index in self.usable()))

    def own_macs(self) -> tuple[str, ...]:
        """See `api.Layer2.own_macs`."""
        routed = {r.index for r in self.snapshot.on_link if not r.network.is_link_local}
        found = sorted((i not in routed, eth.mac_text(self.links[i].mac)) for i in self.announcing())
        return tuple(dict.fromkeys(mac for _, mac in found))

    def prefixes(self) -> tuple[str, ...]:
        """See `api.Layer2.prefixes`."""
        used = self.announcing()
        found = {r.network for r in self.snapshot.on_link if r.index in used and not r.network.is_link_local}
        return tuple(sorted(map(str, found)))

    def dark(self) -> tuple[str, ...]:
        """See `api.Layer2.dark`."""
        used = self.announcing()
        lit = {str(r.network) for r in self.snapshot.on_link if r.index in used and self.links[r.index].carrier}
        return tuple(prefix for prefix in self.prefixes() if prefix not in lit)

    def on_link(self, addresses: Collection[str]) -> frozenset[str]:
        """See `api.Layer2.on_link`."""
        used = self.announcing()
        return frozenset(a for a in addresses if used & self.routes.interfaces(packed(a)))
