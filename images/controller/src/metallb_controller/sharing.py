"""Who holds which address, and who may join: the rules of `allow-shared-ip`.

Two Services share an address when their sharing keys are equal and not empty, their backend keys are
equal, and no protocol and port is wanted by both. Looked up by key and by port, never by scanning.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from metallb_common.kube.views import ServicePort
from metallb_common.net.ranges import Address, Version

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
    group: Keys | None = None  # by which it is among the addresses that may be joined

    def agreed(self) -> Keys | None:
        """The keys that every holder asks for."""
        keys = next(iter(self.wanted)) if len(self.wanted) == 1 else ("", "")
        return keys if keys[0] else None


@dataclass(slots=True)
class _Group:
    """The addresses of one family that may be joined by one pair of keys, and where each port is taken.

    All are sorted: the first gap is found by halves, however many addresses there are.
    """

    addresses: list[int] = field(default_factory=list)
    taken: dict[ServicePort, list[int]] = field(default_factory=dict)  # each a part of `addresses`

    def take(self, port: ServicePort, value: int) -> None:
        insort(self.taken.setdefault(port, []), value)

    def give_back(self, port: ServicePort, value: int) -> None:
        _remove(self.taken[port], value)
        if not self.taken[port]:
            del self.taken[port]

    def lowest(self, ports: tuple[ServicePort, ...], start: int) -> int | None:
        """The lowest address from `start` on that has none of these ports taken.

        Several ports are asked by turns: it takes one look for each change of the port that is in the way.
        """
        in_the_way = [self.taken[port] for port in ports if port in self.taken]
        at = bisect_left(self.addresses, start)
        while at < len(self.addresses):
            before = at
            for taken in in_the_way:
                at = self._gap(taken, at)
            if at == before:
                return self.addresses[at]
        return None

    def _gap(self, taken: list[int], at: int) -> int:
        """The first index from `at` on of an address that is not in `taken`.

        Side by side, the two lists agree up to there and nowhere after.
        """
        if at == len(self.addresses):
            return at
        since = bisect_left(taken, self.addresses[at])
        rest = range(len(taken) - since)
        return at + bisect_left(rest, True, key=lambda n: taken[since + n] != self.addresses[at + n])


class Holders:
    """Address to holders, mutable. An address held by one Service that does not share costs one entry."""

    def __init__(self) -> None:
        self._by_address: dict[Address, str | _Shared] = {}
        self._groups: dict[tuple[Keys, Version], _Group] = {}

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

    def joinable(self, keys: Keys, version: Version, ports: tuple[ServicePort, ...], start: int) -> int | None:
        """The lowest address from `start` on that a Service which comes anew may join; its number."""
        group = self._groups.get((keys, version))
        return None if group is None else group.lowest(ports, start)

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
            new = [port for port in dict.fromkeys(allocation.ports) if port not in held.ports]
            self._regroup(address, held, new, [])
            for port in allocation.ports:
                held.ports.setdefault(port, set()).add(key)

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
            left = [port for port in dict.fromkeys(allocation.ports) if held.ports[port] == {key}]
            for port in allocation.ports:
                held.ports[port].discard(key)
            for port in left:
                del held.ports[port]
            self._regroup(address, held, [], left)
            if not held.holders:
                del self._by_address[address]
                freed.append(address)
        return freed

    def _regroup(self, address: Address, held: _Shared, new: list[ServicePort], left: list[ServicePort]) -> None:
        """After a change of its holders. `held.ports` is without the ports that are `new` or have `left`."""
        value, version = int(address), version_of(address)
        before, after = held.group, held.agreed()
        if before != after and before is not None:
            left = [*left, *held.ports]
        if before is not None:
            group = self._groups[before, version]
            for port in left:
                group.give_back(port, value)
            if before != after:
                _remove(group.addresses, value)
                if not group.addresses:
                    del self._groups[before, version]
        if before != after and after is not None:
            new = [*new, *held.ports]
        if after is not None:
            group = self._groups.setdefault((after, version), _Group())
            if before != after:
                insort(group.addresses, value)
            for port in new:
                group.take(port, value)
        held.group = after


def version_of(address: Address) -> Version:
    return 4 if address.version == 4 else 6


def _remove(numbers: list[int], value: int) -> None:
    del numbers[bisect_left(numbers, value)]


def _count(counts: dict[Keys, int], keys: Keys, step: int) -> None:
    counts[keys] = counts.get(keys, 0) + step
    if not counts[keys]:
        del counts[keys]


def _refused(key: str, others: tuple[str, ...], reason: str) -> str:
    text = f'can\'t change sharing key for "{key}", address also in use by {",".join(others)}'
    return f"{text}: {reason}" if reason else text
