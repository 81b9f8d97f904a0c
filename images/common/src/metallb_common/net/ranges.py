"""Closed intervals of addresses of one family, and their minimal list of CIDRs."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Version = Literal[4, 6]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

BITS: dict[Version, int] = {4: 32, 6: 128}


@dataclass(frozen=True, slots=True, order=True)
class AddressRange:
    """Addresses `first`..`last`, both included, of IP `version`. Guarantee: first <= last.

    Integers rather than address objects: pools are searched and merged by arithmetic.
    """

    version: Version
    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last < 1 << BITS[self.version]:
            raise ValueError(f"not an IPv{self.version} interval: {self.first}..{self.last}")

    def __len__(self) -> int:  # only safe below sys.maxsize; use `size` for IPv6
        return self.size

    @property
    def size(self) -> int:
        """How many addresses."""
        return self.last - self.first + 1

    def __contains__(self, address: Address) -> bool:
        return address.version == self.version and self.first <= int(address) <= self.last

    def overlaps(self, other: AddressRange) -> bool:
        return self.version == other.version and self.first <= other.last and other.first <= self.last

    def networks(self) -> Iterator[Network]:
        """The minimal list of CIDRs that covers exactly this interval."""
        first, last = to_address(self.version, self.first), to_address(self.version, self.last)
        yield from ipaddress.summarize_address_range(first, last)

    def __str__(self) -> str:
        nets = list(self.networks())
        if len(nets) == 1:
            return str(nets[0])
        return f"{to_address(self.version, self.first)}-{to_address(self.version, self.last)}"


def to_address(version: Version, value: int) -> Address:
    """The address with this integer value, in its family."""
    return ipaddress.IPv4Address(value) if version == 4 else ipaddress.IPv6Address(value)


def from_network(network: Network) -> AddressRange:
    return AddressRange(4 if network.version == 4 else 6, int(network.network_address), int(network.broadcast_address))


def merge(ranges: Iterable[AddressRange]) -> tuple[AddressRange, ...]:
    """Sorted, disjoint, with neighbours joined: O(n log n)."""
    out: list[AddressRange] = []
    for r in sorted(ranges):
        if out and out[-1].version == r.version and r.first <= out[-1].last + 1:
            if r.last > out[-1].last:
                out[-1] = AddressRange(r.version, out[-1].first, r.last)
        else:
            out.append(r)
    return tuple(out)


def first_overlap(tagged: Iterable[tuple[AddressRange, str]]) -> tuple[str, str] | None:
    """The tags of the first two ranges that overlap, in address order, or None: O(n log n)."""
    last: tuple[AddressRange, str] | None = None
    for r, tag in sorted(tagged, key=lambda pair: pair[0]):
        if last is not None and last[0].overlaps(r):
            return last[1], tag
        if last is None or last[0].version != r.version or r.last > last[0].last:
            last = (r, tag)
    return None
