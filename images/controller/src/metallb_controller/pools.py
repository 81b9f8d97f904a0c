"""Which addresses a pool can give, which pool an address lies in, and whom a pool serves.

Everything is arithmetic on intervals: nothing here is proportional to the number of addresses.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from metallb_common.config.model import Pool, ServiceAllocation
from metallb_common.net.ranges import Address, AddressRange, Version, merge, to_address
from metallb_common.net.selectors import LabelSelector
from metallb_controller.intervals import IntervalSet, subtract

FAMILY_NAMES: dict[Version, str] = {4: "ipv4", 6: "ipv6"}
#: The API server gives every namespace this label, with its name.
NAMESPACE_NAME = "kubernetes.io/metadata.name"


def _index(value: int) -> int:
    """Rank of an IPv4 address among those that end in neither .0 nor .255."""
    return (value >> 8) * 254 + (value & 255) - 1


class Space:
    """The addresses of one family that a pool may give out, and which of them are free.

    With `avoid_buggy` the free set is kept over ranks (see `_index`), so that a /8 is one interval and
    not 65,536.
    """

    __slots__ = ("_avoid", "_firsts", "_lasts", "free", "size", "version")

    def __init__(self, version: Version, ranges: Iterable[AddressRange], excluded: Iterable[AddressRange], avoid: bool):
        self.version: Version = version
        self._avoid = avoid and version == 4  # only IPv4 has the .0/.255 trouble
        wanted = ((r.first, r.last) for r in ranges if r.version == version)
        holes = ((r.first, r.last) for r in merge(r for r in excluded if r.version == version))
        usable = subtract(wanted, holes)
        if self._avoid:
            usable = [ranks for first, last in usable if (ranks := self._ranks(first, last))]
        self._firsts = [first for first, _ in usable]
        self._lasts = [last for _, last in usable]
        self.size = sum(last - first + 1 for first, last in usable)
        self.free = IntervalSet(usable)

    @staticmethod
    def _ranks(first: int, last: int) -> tuple[int, int] | None:
        """The ranks of first..last without the addresses at its ends that have none."""
        first += {0: 1, 255: 2}.get(first & 255, 0)
        last -= {255: 1, 0: 2}.get(last & 255, 0)
        return (_index(first), _index(last)) if first <= last else None

    def _encode(self, address: Address) -> int | None:
        value = int(address)
        if not self._avoid:
            return value
        return _index(value) if 0 < value & 255 < 255 else None

    def usable(self, address: Address) -> bool:
        """Whether the pool may give this address out, now or when it is free."""
        code = self._encode(address)
        if code is None:
            return False
        i = bisect_right(self._firsts, code) - 1
        return i >= 0 and code <= self._lasts[i]

    def at_or_above(self, value: int) -> int | None:
        """The number of the lowest address from this one on that the pool may give out, now or when it is free."""
        if self._avoid:  # no rank: the next address has one
            value += {0: 1, 255: 2}.get(value & 255, 0)
        code = _index(value) if self._avoid else value
        i = bisect_left(self._lasts, code)
        return self._decode(max(code, self._firsts[i])) if i < len(self._lasts) else None

    def lowest(self) -> Address | None:
        code = self.free.lowest()
        return None if code is None else to_address(self.version, self._decode(code))

    def _decode(self, code: int) -> int:
        if not self._avoid:
            return code
        block, rest = divmod(code, 254)
        return (block << 8) + rest + 1

    def take(self, address: Address) -> None:
        """No longer free. An address that the pool would not give out is left alone."""
        code = self._encode(address)
        if code is not None:
            self.free.discard(code)

    def give_back(self, address: Address) -> None:
        code = self._encode(address)
        if code is not None and self.usable(address):
            self.free.add(code)


class PoolSpace:
    """A pool with its free addresses."""

    __slots__ = ("pool", "spaces")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.spaces: dict[Version, Space] = {
            version: Space(version, pool.addresses, pool.exclude_addresses, pool.avoid_buggy_ips)
            for version in (4, 6)
            if any(r.version == version for r in pool.addresses)
        }

    @property
    def size(self) -> int:
        """How many addresses the pool can give in all."""
        return sum(space.size for space in self.spaces.values())


@dataclass(frozen=True, slots=True)
class Client:
    """What a pool's service-allocation rules look at. `namespace_labels` None: not known, or not yet."""

    namespace: str
    namespace_labels: Mapping[str, str] | None
    labels: Mapping[str, str]

    def in_namespace(self, selector: LabelSelector) -> bool:
        """Whether the Service's namespace matches. Of labels that are not known none is taken to be absent.

        One label every namespace has: its name.
        """
        if self.namespace_labels is not None:
            return selector.matches(self.namespace_labels)
        answerable = all(requirement.key == NAMESPACE_NAME for requirement in selector.requirements)
        return answerable and selector.matches({NAMESPACE_NAME: self.namespace})


def serves(rule: ServiceAllocation, client: Client) -> bool:
    """Namespaces: listed or selected; Services: selected. Rules that are not given bind nobody."""
    if rule.namespaces or rule.namespace_selectors:
        named = client.namespace in rule.namespaces
        if not named and not any(client.in_namespace(s) for s in rule.namespace_selectors):
            return False
    return not rule.service_selectors or any(s.matches(client.labels) for s in rule.service_selectors)


class PoolTable:
    """All pools of a config. `find` is O(log ranges); `order` is the order of automatic choice.

    `selective` says whether any pool serves some Services only.
    """

    def __init__(self, pools: Iterable[Pool]) -> None:
        self.by_name = {pool.name: PoolSpace(pool) for pool in pools}
        rules = (ps.pool.service_allocation for ps in self.by_name.values())
        self.selective = any(r.namespaces or r.namespace_selectors or r.service_selectors for r in rules)
        flat = sorted(
            (r.version, r.first, r.last, name) for name, ps in self.by_name.items() for r in ps.pool.addresses
        )
        self._starts = [(version, first) for version, first, _, _ in flat]
        self._ranges = flat
        self.order = sorted(
            (ps for ps in self.by_name.values() if ps.pool.auto_assign and not ps.pool.disabled),
            key=lambda ps: (ps.pool.service_allocation.priority or float("inf"), ps.pool.name),
        )

    def find(self, address: Address) -> str | None:
        """The name of the pool that the address lies in, excluded or not."""
        value = int(address)
        i = bisect_right(self._starts, (address.version, value)) - 1
        if i < 0:
            return None
        version, _, last, name = self._ranges[i]
        return name if version == address.version and value <= last else None
