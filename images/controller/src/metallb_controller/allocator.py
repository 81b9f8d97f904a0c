"""The allocations: who holds what, what is free, and what a Service could get.

`find`, `join` and `conflicts` only look; `hold` and `release` change. No operation costs more than
O(log n) in the number of addresses taken, whatever the size of the pools; only an edit that parts sharers,
or unites them, costs one step for each of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from metallb_common.config.model import Pool
from metallb_common.kube.views import ServicePort
from metallb_common.net.ranges import Address, Version, to_address
from metallb_controller.pools import FAMILY_NAMES, Client, PoolSpace, PoolTable, serves
from metallb_controller.sharing import Allocation, Holders, Keys, version_of


@dataclass(frozen=True, slots=True)
class Wish:
    """What a Service asks for. `families` are in the order of its status; `optional` may be missed."""

    key: str  # namespace/name
    client: Client
    families: tuple[Version, ...]
    optional: frozenset[Version]
    ports: tuple[ServicePort, ...]
    keys: Keys
    requested: tuple[Address, ...] = ()
    pool: str = ""
    either: tuple[Keys, ...] = ()  # in place of `keys`, when several are given: see `Allocation`


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a wish cannot be met, in the words of the event."""

    text: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """A holder whose address a config does not cover."""

    key: str
    address: Address

    def __str__(self) -> str:
        return f'service "{self.key}" cannot own "{self.address}" under new config'


Found = dict[Version, tuple[Address, str]]


class Allocator:
    """Mutable; one event loop, no locks."""

    def __init__(self) -> None:
        self.table = PoolTable(())
        self.held: dict[str, Allocation] = {}
        self._holders = Holders()
        self._in_use: dict[str, int] = {}
        self._beyond: dict[str, int] = {}  # of those in use: how many the pool would not give out any more
        self._services: dict[str, int] = {}

    # --- changing --------------------------------------------------------------------------------

    def set_pools(self, pools: Iterable[Pool]) -> tuple[str, ...]:
        """Take a new set of pools. Returns the Services that lost an address, whose record is gone."""
        self.table = PoolTable(pools)
        self._in_use, self._beyond, self._services = {}, {}, {}
        lost = tuple(c.key for c in self._uncovered(self.table))
        for key in dict.fromkeys(lost):
            self._holders.remove(key, self.held.pop(key))
        for key, old in list(self.held.items()):
            names = tuple(str(self.table.find(a)) for a in old.addresses)
            if names != old.pools:
                self._holders.remove(key, old)
                new = dataclasses.replace(old, pools=names)
                self._holders.add(key, new)
                self.held[key] = new
            self._count(self.held[key], 1)
        for address in self._holders.addresses():
            self._space(address, take=True)
        return tuple(dict.fromkeys(lost))

    def hold(self, key: str, allocation: Allocation) -> None:
        """Record what `find` or `join` gave, in place of what the Service held."""
        self.release(key)
        for address in allocation.addresses:
            if address not in self._holders:
                self._space(address, take=True)
        self._holders.add(key, allocation)
        self.held[key] = allocation
        self._count(allocation, 1)

    def release(self, key: str) -> bool:
        """Forget what the Service holds; whether it held anything."""
        allocation = self.held.pop(key, None)
        if allocation is None:
            return False
        self._count(allocation, -1)
        for address in self._holders.remove(key, allocation):
            self._space(address, take=False)
        return True

    def _space(self, address: Address, *, take: bool) -> None:
        name = self.table.find(address)
        if name is None:
            return
        space = self.table.by_name[name].spaces[4 if address.version == 4 else 6]
        if take:
            space.take(address)
        else:
            space.give_back(address)
        step = 1 if take else -1
        self._in_use[name] = self._in_use.get(name, 0) + step
        if not space.usable(address):
            self._beyond[name] = self._beyond.get(name, 0) + step

    def _count(self, allocation: Allocation, step: int) -> None:
        for name in set(allocation.pools):
            self._services[name] = self._services.get(name, 0) + step

    # --- looking ---------------------------------------------------------------------------------

    def in_use(self, pool: str) -> int:
        """Addresses of this pool that somebody holds, also those that it would not give out any more."""
        return self._in_use.get(pool, 0)

    def total(self, pool: str) -> int:
        """Addresses that this pool can give in all, and those in use that it would not give out any more.

        So a pool is exhausted, by its numbers, only when it has nothing to give.
        """
        return self.table.by_name[pool].size + self._beyond.get(pool, 0)

    def services(self, pool: str) -> int:
        return self._services.get(pool, 0)

    def holders(self, address: Address) -> tuple[str, ...]:
        return self._holders.of(address)

    def contested(self, key: str, address: Address) -> bool:
        """Whether what the objects say now would keep `key` from getting this address that it holds."""
        mine = self.held[key]
        return self._holders.refusal(key, address, mine.ports, mine.wanted, anew=True) is not None

    def conflicts(self, pools: Iterable[Pool]) -> list[Conflict]:
        """Holders that a config with these pools would not cover, sorted."""
        return self._uncovered(PoolTable(pools))

    def _uncovered(self, table: PoolTable) -> list[Conflict]:
        out = [
            Conflict(key, address)
            for key, allocation in self.held.items()
            for address in allocation.addresses
            if table.find(address) is None
        ]
        return sorted(out, key=lambda c: (c.key, c.address.version, int(c.address)))

    def join(self, wish: Wish, addresses: Iterable[Address], *, adopt: bool = False) -> Allocation | Refusal:
        """The record of `wish` holding just these addresses, by whatever right it has them already.

        Only sharing is judged: neither pool rules nor exclusions take a working address away. With
        `adopt`, what was shared under one key before a restart stays shared, even if ports or
        backends were edited apart since; of several keys, any will do.
        """
        chosen = tuple(addresses)
        asked = wish.either or (wish.keys,)
        sharing = frozenset(key for key, _ in asked if key)
        names = []
        for address in chosen:
            name = self.table.find(address)
            if name is None:
                return Refusal(f"{quoted(chosen)} is not allowed in config")
            refused = self._holders.refusal(wish.key, address, wish.ports, wish.keys)
            if refused and not (adopt and self._holders.friends(wish.key, address, sharing)):
                return Refusal(refused)
            names.append(name)
        return Allocation(chosen, tuple(names), wish.ports, asked[0], wish.keys, wish.either)

    def find(self, wish: Wish, keep: Iterable[Address] = ()) -> Allocation | Refusal:
        """What `wish` gets: `keep` as it is, the rest from the requested addresses, pool, or any pool."""
        kept: Found = {}
        for address in keep:
            name = self.table.find(address)
            if name is not None:
                kept[version_of(address)] = (address, name)
        if wish.requested:
            found: Found | Refusal = self._requested(wish, kept)
        elif wish.pool:
            found = self._from_named(wish, kept)
        else:
            found = self._from_any(wish, kept)
        if isinstance(found, Refusal):
            return found
        pairs = [found[v] for v in wish.families if v in found]
        return Allocation(tuple(a for a, _ in pairs), tuple(n for _, n in pairs), wish.ports, wish.keys, wish.keys)

    def _requested(self, wish: Wish, kept: Found) -> Found | Refusal:
        asked = {version_of(a) for a in wish.requested}
        missing = set(wish.families) - asked
        if not asked <= set(wish.families) or (missing and not self._fillable(wish, missing)):
            return Refusal(
                f"requested loadBalancer IP(s) {quoted(wish.requested)} does not match the ipFamily of the service"
            )
        found: Found = {}
        for address in wish.requested:
            name = self.table.find(address)
            if name is None:
                return Refusal(f"{quoted(wish.requested)} is not allowed in config")
            if kept.get(version_of(address), (None, ""))[0] != address and (why := self._closed(wish, address, name)):
                return Refusal(f"{quoted(wish.requested)} is not allowed in config: {why}")
            refused = self._holders.refusal(wish.key, address, wish.ports, wish.keys)
            if refused:
                return Refusal(refused)
            found[version_of(address)] = (address, name)
        found |= {version: kept[version] for version in missing & set(kept)}
        if missing <= set(found):
            return found
        # The requested address's own pool comes first, also if it is none of automatic choice.
        asked_for = dict.fromkeys(name for _, name in found.values())
        first = [ps for name in asked_for if not self._shut(ps := self.table.by_name[name], wish)]
        rest = [ps for ps in self._open(wish, found) if ps.pool.name not in asked_for]
        return self._fill([*first, *rest], wish, found) or found

    @staticmethod
    def _fillable(wish: Wish, missing: set[Version]) -> bool:
        """PreferDualStack with one requested address: the other family is ours to choose, or to miss."""
        return bool(wish.optional) and len(missing) < len(wish.families)

    @staticmethod
    def _shut(space: PoolSpace, wish: Wish) -> str:
        """Why this pool gives this Service nothing now."""
        if space.pool.disabled:
            return f'pool "{space.pool.name}" is disabled'
        if not serves(space.pool.service_allocation, wish.client):
            return f'pool "{space.pool.name}" does not serve this service (service-allocation)'
        return ""

    def _closed(self, wish: Wish, address: Address, name: str) -> str:
        """Why this pool does not give this address to this Service now."""
        space = self.table.by_name[name]
        if why := self._shut(space, wish):
            return why
        if not space.spaces[version_of(address)].usable(address):
            return f'pool "{name}" never gives it out'
        return ""

    def _from_named(self, wish: Wish, kept: Found) -> Found | Refusal:
        space = self.table.by_name.get(wish.pool)
        if space is None:
            return Refusal(f'unknown pool "{wish.pool}"')
        if why := self._shut(space, wish):
            return Refusal(why)
        kept = {v: pair for v, pair in kept.items() if pair[1] == wish.pool}
        found = self._fill([space], wish, kept)
        if found is None:
            family = "dual" if len(wish.families) > 1 else FAMILY_NAMES[wish.families[0]]
            return Refusal(f'no available IPs in pool "{wish.pool}" for {family} IPFamily')
        return found

    def _from_any(self, wish: Wish, kept: Found) -> Found | Refusal:
        found = self._fill(self._open(wish, kept), wish, kept)
        return Refusal("no available IPs") if found is None else found

    def _open(self, wish: Wish, kept: Found) -> list[PoolSpace]:
        """The pools of automatic choice, in order. What is kept has the first say; of another protocol is none then."""
        open_pools = [ps for ps in self.table.order if serves(ps.pool.service_allocation, wish.client)]
        if kept:
            known = {name: self.table.by_name[name].pool.protocol for _, name in kept.values()}
            open_pools = [ps for ps in open_pools if ps.pool.protocol in known.values()]
            open_pools.sort(key=lambda ps: ps.pool.name not in known)
        return open_pools

    def _fill(self, spaces: list[PoolSpace], wish: Wish, kept: Found) -> Found | None:
        """Choose every family that is not kept: one pool for all if there is one, else several.

        First a pool that has every family; then pools of one protocol between them; then, when a family
        is optional, whatever single family can be had. Before all that, who shares joins where it can: with
        every family, else with one.
        """
        missing = tuple(v for v in wish.families if v not in kept)
        if not missing:
            return dict(kept)
        alike = [spaces]
        if len(missing) > 1:
            protocols = dict.fromkeys(ps.pool.protocol for ps in spaces)
            alike = [[ps for ps in spaces if ps.pool.protocol == protocol] for protocol in protocols]
        for group in alike if wish.keys[0] else ():
            if shared := self._join_shared(group, wish, missing):
                return {**kept, **shared}
        for group in alike if wish.keys[0] and len(missing) > 1 else ():
            if partly := self._join_with_one(group, wish, missing):
                return {**kept, **partly}
        for space in spaces:
            found = self._pick_all([space], wish, missing)
            if found:
                return {**kept, **found}
        if len(missing) > 1:
            for group in alike:
                found = self._pick_all(group, wish, missing)
                if found:
                    return {**kept, **found}
        if kept and set(missing) <= wish.optional:
            return dict(kept)
        for version in missing if wish.optional else ():
            found = self._join_shared(spaces, wish, (version,)) or self._pick_all(spaces, wish, (version,))
            if found:
                return {**kept, **found}
        return None

    def _join_shared(self, spaces: list[PoolSpace], wish: Wish, missing: tuple[Version, ...]) -> Found | None:
        """A sharing key is a wish to share: an address under the same key comes before a free one."""
        found: Found = {}
        for version in missing:
            for space in spaces:
                if address := self._shared(space, wish, version):
                    found[version] = (address, space.pool.name)
                    break
            else:
                return None
        return found

    def _join_with_one(self, spaces: list[PoolSpace], wish: Wish, missing: tuple[Version, ...]) -> Found | None:
        """One address to join, and the others free: of the same pool if it has them, else of another."""
        first = {ps: None for ps in spaces if any(self._shared(ps, wish, version) for version in missing)}
        for space in first:
            if found := self._pick_all([space], wish, missing):
                return found
        return self._pick_all([*first, *(ps for ps in spaces if ps not in first)], wish, missing) if first else None

    def _shared(self, space: PoolSpace, wish: Wish, version: Version) -> Address | None:
        """The lowest address of this pool that the wish may join."""
        own = space.spaces.get(version) if wish.keys[0] else None
        value: int | None = 0
        while own is not None and value is not None:
            start = own.at_or_above(value)  # not what is held since before it was excluded
            value = None if start is None else self._holders.joinable(wish.keys, version, wish.ports, start)
            if value is not None and value == start:
                return to_address(version, value)
        return None

    def _pick_all(self, spaces: list[PoolSpace], wish: Wish, versions: tuple[Version, ...]) -> Found | None:
        found: Found = {}
        for version in versions:
            for space in spaces:
                address = self._pick(space, wish, version)
                if address:
                    found[version] = (address, space.pool.name)
                    break
            else:
                return None
        return found

    def _pick(self, space: PoolSpace, wish: Wish, version: Version) -> Address | None:
        """The lowest address under the wish's sharing key, else the lowest free one."""
        if version not in space.spaces:
            return None
        return self._shared(space, wish, version) or space.spaces[version].lowest()


def quoted(addresses: Iterable[object]) -> str:
    """Addresses as 0.12's messages show a list: `["192.0.2.1" "2001:db8::1"]`."""
    return "[" + " ".join(f'"{a}"' for a in addresses) + "]"
