"""From an address to its pool, by binary search: pools overlap nowhere."""

from __future__ import annotations

import bisect
import ipaddress

from metallb_common.config.model import Config, Pool
from metallb_common.net.ranges import Address, AddressRange


class PoolIndex:
    """The pools of one configuration, by address. O(log ranges)."""

    def __init__(self, config: Config) -> None:
        ranges = sorted(((r, pool) for pool in config.pools for r in pool.addresses), key=lambda entry: entry[0])
        self._ranges: list[tuple[AddressRange, Pool]] = ranges
        self._starts = [(r.version, r.first) for r, _ in ranges]

    def find(self, address: Address) -> Pool | None:
        at = bisect.bisect_right(self._starts, (address.version, int(address))) - 1
        if at >= 0 and address in self._ranges[at][0]:
            return self._ranges[at][1]
        return None


def parse_address(text: str) -> Address | None:
    """The address, None for what is none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
