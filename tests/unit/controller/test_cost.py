"""The allocator's cost does not grow with the pool, nor with how full it is, nor with who shares."""

from __future__ import annotations

import time

from metallb_common.config.model import Pool
from metallb_common.net.ranges import AddressRange
from metallb_controller.allocator import Allocator, Refusal
from metallb_controller.wishes import wish
from tests.unit.controller.make import pool, service

COUNT = 2000
FIRST = 10 << 24


def nearly_full() -> Pool:
    """10.0.0.0/8 with one address in a thousand free: 16,777 free intervals of one address."""
    holes = tuple(
        AddressRange(4, start + 1, min(start + 999, FIRST + (1 << 24) - 1))
        for start in range(FIRST, FIRST + (1 << 24), 1000)
    )
    return Pool("p", "layer2", (AddressRange(4, FIRST, FIRST + (1 << 24) - 1),), exclude_addresses=holes)


def seconds(p: Pool, families: str = "4") -> float:
    """CPU seconds for COUNT allocations and releases, the best of three."""
    asked = [wish(service(f"s{i}", families=families), None) for i in range(COUNT)]
    best = float("inf")
    for _ in range(3):
        allocator = Allocator()
        allocator.set_pools((p,))
        start = time.process_time()
        for one in asked:
            found = allocator.find(one)
            assert not isinstance(found, Refusal)
            allocator.hold(one.key, found)
        for one in asked:
            allocator.release(one.key)
        best = min(best, time.process_time() - start)
    return best


def test_size_and_fill_do_not_matter() -> None:
    small = seconds(pool("p", "10.0.0.0/20"))
    for name, took in {
        "an empty /8": seconds(pool("p", "10.0.0.0/8")),
        "an empty /8 without .0 and .255": seconds(pool("p", "10.0.0.0/8", avoid_buggy_ips=True)),
        "a /8 that is 99.9 % full": seconds(nearly_full()),
        "an IPv6 /64": seconds(pool("p", "2001:db8::/64"), "6"),
    }.items():
        assert took < 3 * small + 0.02, f"{name}: {took:.3f} s, a /20: {small:.3f} s"


def test_the_nearly_full_pool_is_counted_right() -> None:
    allocator = Allocator()
    allocator.set_pools((nearly_full(),))
    assert allocator.table.by_name["p"].size == 16_778


def test_many_sharers_of_one_key_cost_no_search() -> None:
    """Under one key and one port, every Service needs an address of its own: found at once."""

    def took(share: str) -> float:
        allocator = Allocator()
        allocator.set_pools((pool("p", "10.0.0.0/8"),))
        start = time.process_time()
        for i in range(COUNT):
            one = wish(service(f"s{i}", share=share), None)
            found = allocator.find(one)
            assert not isinstance(found, Refusal)
            allocator.hold(one.key, found)
        return time.process_time() - start

    assert took("k") < 4 * took("") + 0.05


def test_ten_thousand_pools() -> None:
    pools = tuple(pool(f"p{i:05}", f"10.{i >> 8}.{i & 255}.0/24") for i in range(10_000))
    allocator = Allocator()
    start = time.process_time()
    allocator.set_pools(pools)
    assert time.process_time() - start < 3.0
    assert allocator.table.find(allocator.table.by_name["p09999"].spaces[4].lowest() or 0) == "p09999"  # type: ignore[arg-type]
