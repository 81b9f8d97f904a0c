"""Spreading the addresses of a pool evenly over its nodes, with the fewest moves; the same on every node.

`assign` is a function of the keys, the nodes that a pool has at all (`universe`), and those that are there now:

1. Every key takes, in the order of its hash, the first node of its own ranking (`elect.rank`) that has room. Of n
   keys on k nodes each has room for n // k, and n % k of them for one more: the difference is one at most.
2. Each node that is not there is taken out, one after the other in the order of a hash of their names: its keys, and no
   others, go to the remaining ones by the same rule.

So when a node is lost while all others are there, its keys move and no other key does, and they come back alone. While
others are missing, too, nothing moves that was not on one of the missing nodes at first. A key that comes or goes moves
about ln k others, for each step of the chain goes to a node that filled up later; k - 1 at most.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from metallb_speaker.announcer.elect import rank
from metallb_speaker.announcer.membership.events import Tier
from metallb_speaker.desired import Layer2Group

#: Seconds between two computations for one pool, per key in it: it is never more than a fifth of this process's time.
PACE = 20e-6
#: Assignments kept per pool: as things stand, and as they would be without this or that node.
MEMO = 6

Ranking = Callable[[str], Collection[str]]
Kind = tuple[tuple[str, ...], ...]  # candidates, fallback, last


def _hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _fill(keys: Iterable[str], ranking: Ranking, held: dict[str, str], loads: dict[str, int], total: int) -> None:
    """Give each of `keys` a node of `loads`, in order; `total` keys will be held in the end."""
    least, extra = divmod(total, len(loads))
    extra -= sum(load > least for load in loads.values())
    for key in keys:
        for node in ranking(key):
            load = loads.get(node, total)
            if load < least or (load == least and extra):
                extra -= load == least
                loads[node] = load + 1
                held[key] = node
                break


def assign(keys: list[str], universe: Collection[str], available: Collection[str], ranking: Ranking) -> dict[str, str]:
    """Key -> node of `available` (a non-empty part of `universe`). `keys` in the order of their hashes."""
    held: dict[str, str] = {}
    loads = dict.fromkeys(sorted(universe), 0)
    _fill(keys, ranking, held, loads, len(keys))
    for gone in sorted((node for node in universe if node not in available), key=_hashed):
        del loads[gone]
        _fill([key for key in keys if held[key] == gone], ranking, held, loads, len(keys))
    return held


class Pool:
    """The keys that are spread over one universe."""

    def __init__(self, universe: tuple[str, ...]) -> None:
        self.universe = universe
        self.kinds: dict[str, Kind] = {}
        self.changed = False
        self.whole = False  # the change, as far as it is known, is all of it
        self.next_at = 0.0
        self._order: list[tuple[bytes, str]] = []
        self._ranks: dict[str, list[str]] = {}
        self._keys: list[str] = []  # as of the last refresh
        self._kind: Kind = ((), ())
        self._memo: dict[frozenset[str], dict[str, str]] = {}

    def put(self, group: Layer2Group) -> None:
        key = group.key
        if key not in self.kinds:
            insort(self._order, (_hashed(key), key))
            self._ranks[key] = rank(self.universe, key)
        self.kinds[key] = group.candidates, group.fallback, group.last
        self.changed, self.whole = True, False

    def remove(self, key: str) -> None:
        del self.kinds[key], self._ranks[key]
        del self._order[bisect_left(self._order, (_hashed(key), key))]
        self.changed, self.whole = True, False

    def refresh(self, now: float) -> None:
        """Take in what has changed. Of several kinds of candidates the most frequent one is what is spread for."""
        self.changed = self.whole = False
        self.next_at = now + PACE * len(self.kinds)
        self._keys = [key for _, key in self._order]
        counts = Counter(self.kinds.values())
        self._kind = max(counts, key=lambda kind: (counts[kind], kind), default=((), ()))
        self._memo = {}

    def knows(self, key: str) -> bool:
        """Whether `key` was there at the last refresh."""
        at = bisect_left(self._keys, _hashed(key), key=_hashed) if key in self.kinds else len(self._keys)
        return at < len(self._keys) and self._keys[at] == key

    def elect(self, group: Layer2Group, off: Collection[str], tier_of: Callable[[str], Tier], without: str) -> str:
        """The node for `group`: that of the assignment where it may announce, else its first by rank."""
        mine = available((group.candidates, group.fallback, group.last), off, tier_of, without)
        if not mine or group.preferred in mine:
            return group.preferred if mine else ""
        common = available(self._kind, off, tier_of, without)
        chosen = self._assigned(common).get(group.key, "") if common and common <= {*self.universe} else ""
        return chosen if chosen in mine else rank(mine, group.key)[0]

    def _assigned(self, nodes: frozenset[str]) -> Mapping[str, str]:
        found = self._memo.get(nodes)
        if found is None:
            if len(self._memo) >= MEMO:
                del self._memo[next(iter(self._memo))]
            found = assign(self._keys, self.universe, nodes, lambda key: self._ranks.get(key, self.universe))
            self._memo[nodes] = found
        return found


def available(kind: Kind, off: Collection[str], tier_of: Callable[[str], Tier], without: str) -> frozenset[str]:
    """The best of the candidates, by the rule of `groups`: on the subnet, by tier, then candidates, fallback, last."""
    found: dict[tuple[bool, Tier, int], set[str]] = {}
    for behind, nodes in enumerate(kind):
        for node in nodes:
            tier = tier_of(node)
            if tier is not Tier.SILENT and node != without:
                found.setdefault((node in off, tier, behind), set()).add(node)
    return frozenset(found[min(found)]) if found else frozenset()


class Spread:
    """All pools, by their universes."""

    def __init__(self) -> None:
        self.pools: dict[tuple[str, ...], Pool] = {}

    def put(self, group: Layer2Group) -> None:
        """A group that is spread is new or has changed."""
        self.pools.setdefault(group.spread, Pool(group.spread)).put(group)

    def remove(self, group: Layer2Group) -> None:
        """It is gone, or is spread otherwise."""
        self.pools[group.spread].remove(group.key)

    def complete(self) -> None:
        """All of a change has been put: half of it would move keys to and fro."""
        for pool in self.pools.values():
            pool.whole = True

    def due(self, now: float) -> list[Pool]:
        """Refreshes the pools that have changed and whose time has come; gives those that have keys."""
        out = []
        for universe, pool in list(self.pools.items()):
            if pool.changed and pool.whole and pool.next_at <= now:
                pool.refresh(now)
                if pool.kinds:
                    out.append(pool)
                else:
                    del self.pools[universe]
        return out

    def deadline(self) -> float:
        """When `due` has something."""
        return min((p.next_at for p in self.pools.values() if p.changed and p.whole), default=float("inf"))

    def keys(self, node: str) -> list[str]:
        """Keys whose node can depend on `node`."""
        return [key for pool in self.pools.values() if node in pool.universe for key in pool.kinds]
