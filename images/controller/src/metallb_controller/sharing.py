"""Who holds which address, and who may join: the rules of `allow-shared-ip`.

Two Services share an address when their sharing keys are equal and not empty, their backend keys are
equal, and no protocol and port is wanted by both. Looked up by key and by port, never by scanning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from metallb_common.kube.views import ServicePort
from metallb_common.net.ranges import Address

#: Sharing key and backend key (empty unless externalTrafficPolicy is Local).
Keys = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Allocation:
    """What one Service holds. `pools[i]` is the pool of `addresses[i]`.

    `keys` are in force; `wanted` differs from them while other holders of the address do not agree.
    `either` is there when the Service gives several sharing keys under different prefixes: `wanted` has
    none then, so that nobody new joins, but who shares with it under any of them goes on.
    """

    addresses: tuple[Address, ...]
    pools: tuple[str, ...]
    ports: tuple[ServicePort, ...]
    keys: Keys
    wanted: Keys
    either: tuple[Keys, ...] = ()


@dataclass(slots=True)
class _Shared:
    """An address whose holders share, or may."""

    holders: dict[str, Allocation] = field(default_factory=dict)
    ports: dict[ServicePort, set[str]] = field(default_factory=dict)
    keys: dict[Keys, int] = field(default_factory=dict)  # how many holders go by them
    wanted: dict[Keys, int] = field(default_factory=dict)  # how many holders ask for them


@dataclass(slots=True)
class _Group:
    """The addresses held under one pair of keys, and where each port is taken."""

    addresses: set[Address] = field(default_factory=set)
    ports: dict[ServicePort, set[Address]] = field(default_factory=dict)


class Holders:
    """Address to holders, mutable. An address held by one Service that does not share costs one entry."""

    def __init__(self) -> None:
        self._by_address: dict[Address, str | _Shared] = {}
        self._groups: dict[Keys, _Group] = {}

    def __len__(self) -> int:
        return len(self._by_address)

    def __contains__(self, address: Address) -> bool:
        return address in self._by_address

    def addresses(self) -> Iterator[Address]:
        return iter(self._by_address)

    def of(self, address: Address) -> tuple[str, ...]:
        """Keys of the Services that hold this address, sorted."""
        held = self._by_address.get(address)
        if held is None:
            return ()
        return (held,) if isinstance(held, str) else tuple(sorted(held.holders))

    def refusal(
        self, key: str, address: Address, ports: tuple[ServicePort, ...], keys: Keys, *, anew: bool = False
    ) -> str | None:
        """Why Service `key` cannot hold this address beside its present holders; None when it can.

        With `anew` it is judged as if it came only now, also when it is one of the holders.
        """
        held = self._by_address.get(address)
        if held is None or held == key:
            return None
        if isinstance(held, str):
            return _refused(key, (held,), "existing service does not allow sharing")
        others = len(held.holders) - (key in held.holders)
        if not others:
            return None
        if not self._agreed(key, held, keys, others, anew):
            names = tuple(sorted(h for h in held.holders if h != key))
            if not keys[0]:
                return _refused(key, names, "new service does not allow sharing")
            return _refused(key, names, "")
        for port in ports:
            users = held.ports.get(port)
            if users and (len(users) > 1 or key not in users):
                return f'port {port} is already in use on "{address}"'
        return None

    @staticmethod
    def _agreed(key: str, held: _Shared, keys: Keys, others: int, anew: bool) -> bool:
        if not keys[0]:
            return False
        mine = held.holders.get(key)
        if mine is None or anew:  # who comes anew must agree with what every holder says now, whatever is in force
            return held.wanted.get(keys, 0) - (mine is not None and mine.wanted == keys) == others
        if held.keys.get(keys, 0) - (mine.keys == keys) == others:
            return True
        # All holders may be on their way to the same new key, one edit after the other.
        return all(keys in (a.keys, a.wanted, *a.either) for h, a in held.holders.items() if h != key)

    def friends(self, key: str, address: Address, sharing: frozenset[str]) -> bool:
        """Whether every other holder asks for one of these sharing keys (none is empty), ports and backends aside."""
        held = self._by_address.get(address)
        if held is None or held == key:
            return True
        if isinstance(held, str):
            return False
        others = (a for h, a in held.holders.items() if h != key)
        return all(any(asked in sharing for asked, _ in (a.wanted, *a.either)) for a in others)

    def joinable(self, keys: Keys, ports: tuple[ServicePort, ...]) -> set[Address]:
        """Addresses held under these keys on which none of the ports is taken."""
        group = self._groups.get(keys)
        if group is None or not keys[0]:
            return set()
        free = group.addresses
        for port in ports:
            taken = group.ports.get(port)
            if taken:
                if len(taken) == len(group.addresses):
                    return set()
                free = free - taken
        return set(free)

    def add(self, key: str, allocation: Allocation) -> None:
        for address in allocation.addresses:
            held = self._by_address.get(address)
            if held is None and not allocation.keys[0]:
                self._by_address[address] = key
                continue
            if not isinstance(held, _Shared):
                if held is not None:  # `refusal` was not asked: two owners must never come of it
                    raise RuntimeError(f"{address} is held by {held}, which does not share it")
                held = self._by_address[address] = _Shared()
            held.holders[key] = allocation
            _count(held.keys, allocation.keys, 1)
            _count(held.wanted, allocation.wanted, 1)
            for port in allocation.ports:
                held.ports.setdefault(port, set()).add(key)
            group = self._groups.setdefault(allocation.keys, _Group())
            group.addresses.add(address)
            for port in allocation.ports:
                group.ports.setdefault(port, set()).add(address)

    def remove(self, key: str, allocation: Allocation) -> list[Address]:
        """Returns the addresses that nobody holds any more."""
        freed: list[Address] = []
        for address in allocation.addresses:
            held = self._by_address.get(address)
            if not isinstance(held, _Shared):
                del self._by_address[address]
                freed.append(address)
                continue
            del held.holders[key]
            _count(held.keys, allocation.keys, -1)
            _count(held.wanted, allocation.wanted, -1)
            for port in set(allocation.ports):
                users = held.ports[port]
                users.discard(key)
                if not users:
                    del held.ports[port]
            self._ungroup(address, allocation, held)
            if not held.holders:
                del self._by_address[address]
                freed.append(address)
        return freed

    def _ungroup(self, address: Address, allocation: Allocation, held: _Shared) -> None:
        group = self._groups[allocation.keys]
        for port in set(allocation.ports):
            if not any(a.keys == allocation.keys and port in a.ports for a in _users(held, port)):
                group.ports[port].discard(address)
                if not group.ports[port]:
                    del group.ports[port]
        if allocation.keys not in held.keys:
            group.addresses.discard(address)
            if not group.addresses:
                del self._groups[allocation.keys]


def _count(counts: dict[Keys, int], keys: Keys, step: int) -> None:
    counts[keys] = counts.get(keys, 0) + step
    if not counts[keys]:
        del counts[keys]


def _users(held: _Shared, port: ServicePort) -> list[Allocation]:
    return [held.holders[key] for key in held.ports.get(port, ())]


def _refused(key: str, others: tuple[str, ...], reason: str) -> str:
    text = f'can\'t change sharing key for "{key}", address also in use by {",".join(others)}'
    return f"{text}: {reason}" if reason else text
