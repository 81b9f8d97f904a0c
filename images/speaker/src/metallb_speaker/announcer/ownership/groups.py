"""All groups and how they are elected, so that a change touches only the groups it can matter to.

Per group the best PREFIX candidates are kept, in the order of `elect.rank`, and per node the groups that have it
among them. When a node's tier changes only those are elected again, without hashing anything.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from metallb_speaker.announcer.elect import rank
from metallb_speaker.announcer.membership.events import Standing, Tier
from metallb_speaker.announcer.ownership.onlink import OnLink
from metallb_speaker.announcer.ownership.spread import Spread
from metallb_speaker.desired import Layer2Group

#: Candidates kept per group. That many of one group's nodes are gone at once only in a disaster; then it is
#: ranked in full. At 5,000 groups this is 8 references each rather than one per node of the cluster.
PREFIX = 8

TierOf = Callable[[str], Tier]


@dataclass(slots=True)
class Entry:
    """One group. `owner` is whom this node believes to own it; "" for nobody.

    `order`: the best candidates; `behind`: the best of the fallback nodes, then of the last ones, which come after all
    candidates of the same tier (a cordoned node that is settled goes before a candidate that is leaving).
    """

    group: Layer2Group
    order: tuple[str, ...]
    behind: tuple[str, ...] = ()
    owner: str = ""
    winner: str = ""  # of the last election: not the owner yet while a hand-over is under way
    off: frozenset[str] = frozenset()  # passed over while any other is alive: see `onlink`
    unseen: bool = False  # it was there before this node looked: somebody may own it
    heir_of: Mapping[str, str] = field(default_factory=dict)  # addresses that a group of another key had -> its owner

    @property
    def listed(self) -> tuple[str, ...]:
        """Nodes whose tier matters here, as far as they are kept."""
        return self.order + self.behind


def best(candidates: tuple[str, ...], ip: str, preferred: str) -> tuple[str, ...]:
    """The PREFIX best candidates: the preferred one, then as `elect.rank` orders them."""
    if len(candidates) <= PREFIX:
        order = rank(candidates, ip) if len(candidates) > 1 else list(candidates)
    else:
        suffix = f"#{ip}".encode()
        hashed = ((hashlib.sha256(node.encode() + suffix).digest(), node) for node in candidates)
        order = [node for _, node in heapq.nsmallest(PREFIX, hashed)]
    if preferred in candidates:
        order = [preferred, *(node for node in order if node != preferred)]
    return tuple(order)


def best_of(group: Layer2Group, off: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`order` and `behind` of an entry. Those that are passed over are not kept; `elect` ranks in full for them."""

    def ordered(nodes: tuple[str, ...]) -> tuple[str, ...]:
        left = tuple(node for node in nodes if node not in off) if off else nodes
        return best(left, group.key, group.preferred)

    return ordered(group.candidates), ordered(group.fallback) + ordered(group.last)


def _ranked(group: Layer2Group) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str, bool]:
    """All that the order depends on, besides the key, and whether it is of use."""
    return group.candidates, group.fallback, group.last, group.preferred, bool(group.spread)


def _deep(entry: Entry) -> bool:
    """Whether there are more nodes than are kept in order."""
    group = entry.group
    return len(group.candidates) > len(entry.order) or len(group.fallback) + len(group.last) > len(entry.behind)


class Groups:
    """Groups by key, and the indexes."""

    def __init__(self) -> None:
        self.on_link = OnLink()
        self.spread = Spread()
        self.entries: dict[str, Entry] = {}
        self.by_address: dict[str, str] = {}
        self._left: dict[
            str, tuple[str, str]
        ] = {}  # address that is in no group -> (key, owner) of the one that had it
        self._by_node: dict[str, dict[str, None]] = {}
        self._owned_by: dict[str, dict[str, None]] = {}
        self._deep: dict[str, None] = {}  # more candidates than PREFIX

    def put(self, group: Layer2Group) -> Entry:
        """Add or replace; keeps the believed owner, and the order where the candidates are the same."""
        held = self.entries.get(group.key)
        if held is not None:
            off = self.on_link.off(group)
            same = _ranked(held.group) == _ranked(group) and off == held.off
            for address in held.group.addresses:
                if self.by_address.get(address.ip) == group.key:
                    del self.by_address[address.ip]
                    self._left[address.ip] = group.key, held.owner
            if held.group.spread != group.spread:
                self._unspread(held.group)
            if same:
                held.group = group
            else:
                self._unlist(held)
                held.group, held.off = group, off
                held.order, held.behind = best_of(group, off)
                self._list(held)
            entry = held
        else:
            off = self.on_link.off(group)
            entry = Entry(group, *best_of(group, off), off=off)
            self.entries[group.key] = entry
            self._list(entry)
        if group.spread:
            self.spread.put(group)
        for address in group.addresses:
            self.by_address[address.ip] = group.key
            self._left.pop(address.ip, None)
        return entry

    def find(self, name: str) -> Entry | None:
        """The group of that key, else the one that holds that address: another node may have it under another key."""
        return self.entries.get(name) or self.entries.get(self.by_address.get(name, ""))

    def before(self, group: Layer2Group) -> dict[str, tuple[str, str]]:
        """Addresses of `group` that another group has, or has lost in this change -> that one's key and owner."""
        found = {}
        for ip in (address.ip for address in group.addresses):
            key = self.by_address.get(ip, "")
            known = (key, self.entries[key].owner) if key else self._left.get(ip)
            if known is not None and known[0] != group.key:
                found[ip] = known
        return found

    def complete(self) -> None:
        """A change is whole: an address that is in no group now has no owner any more."""
        self._left.clear()

    def _unspread(self, group: Layer2Group) -> None:
        if group.spread:
            self.spread.remove(group)

    def relink(self, standings: Mapping[str, Standing]) -> list[Entry]:
        """Members' prefixes as they are now; gives the entries for which that makes a difference."""
        if not self.on_link.update(standings):
            return []
        changed = []
        for entry in self.entries.values():
            off = self.on_link.off(entry.group)
            if off != entry.off:
                self._unlist(entry)
                entry.off = off
                entry.order, entry.behind = best_of(entry.group, off)
                self._list(entry)
                changed.append(entry)
        return changed

    def remove(self, key: str) -> None:
        """Forget a group; a key that is not there is no error."""
        entry = self.entries.pop(key, None)
        if entry is None:
            return
        self.believe(entry, "")
        self._unlist(entry)
        self._unspread(entry.group)
        for address in entry.group.addresses:
            if self.by_address.get(address.ip) == key:
                del self.by_address[address.ip]

    def believe(self, entry: Entry, owner: str) -> None:
        """Note who owns it."""
        if entry.owner == owner:
            return
        key = entry.group.key
        if entry.owner:
            self._owned_by[entry.owner].pop(key, None)
        if owner:
            self._owned_by.setdefault(owner, {})[key] = None
        entry.owner = owner

    def owned_by(self, node: str) -> Iterable[str]:
        """Keys of the groups that `node` is believed to own."""
        return self._owned_by.get(node, ())

    def touched(self, node: str, tier_of: TierOf) -> list[str]:
        """Keys of the groups whose election `node`'s tier can change."""
        keys = [*self._by_node.get(node, ()), *self.spread.keys(node)]
        for key in self._deep:
            entry = self.entries[key]
            order, owner = entry.listed, entry.owner
            if node not in order and (owner not in order or tier_of(owner) is not Tier.SETTLED):
                keys.append(key)
        return keys

    def elect(self, entry: Entry, tier_of: TierOf, without: str = "") -> str:
        """The owner: the first in order of the best tier that has any; "" for nobody. `without` counts as gone.

        Those that are passed over come after all others, whatever their tier.
        """
        if entry.group.spread:
            return self.spread.pools[entry.group.spread].elect(entry.group, entry.off, tier_of, without)
        winner, tier = self._first(entry.listed, tier_of, without)
        if (tier is not Tier.SETTLED or winner not in entry.order) and _deep(entry):
            full = rank(entry.group.candidates, entry.group.key)
            if entry.group.preferred in full:
                full.insert(0, entry.group.preferred)
            full += rank(entry.group.fallback, entry.group.key) + rank(entry.group.last, entry.group.key)
            winner, _ = self._first([node for node in full if node not in entry.off], tier_of, without)
            if not winner and entry.off:
                winner, _ = self._first(full, tier_of, without)
        return winner

    @staticmethod
    def _first(order: Iterable[str], tier_of: TierOf, without: str) -> tuple[str, Tier]:
        winner, least = "", Tier.SILENT
        for node in order:
            if node == without:
                continue
            tier = tier_of(node)
            if tier < least:
                winner, least = node, tier
                if tier is Tier.SETTLED:
                    break
        return winner, least

    def _list(self, entry: Entry) -> None:
        if entry.group.spread:
            return  # `spread` has an index of its own
        key = entry.group.key
        for node in entry.listed:
            self._by_node.setdefault(node, {})[key] = None
        if _deep(entry):
            self._deep[key] = None

    def _unlist(self, entry: Entry) -> None:
        key = entry.group.key
        for node in entry.listed:
            nodes = self._by_node.get(node, {})
            nodes.pop(key, None)
            if not nodes and node in self._by_node:
                del self._by_node[node]
        self._deep.pop(key, None)
