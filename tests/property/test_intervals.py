"""Intervals, and the addresses of one pool, against sets."""

from __future__ import annotations

import dataclasses
import ipaddress

import hypothesis.strategies as st
from hypothesis import given, settings

from metallb_controller.intervals import IntervalSet, subtract
from metallb_controller.pools import PoolSpace
from tests.property.test_allocator import naive_addresses
from tests.unit.controller.make import pool


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=200), st.sets(st.integers(0, 60)))
@settings(max_examples=150, deadline=None)
def test_intervals_are_a_set(steps: list[tuple[bool, int]], start: set[int]) -> None:
    model = set(start)
    intervals = IntervalSet((v, v) for v in sorted(start))
    for adding, value in steps:
        if adding:
            assert intervals.add(value) is (value not in model)
            model.add(value)
        else:
            assert intervals.discard(value) is (value in model)
            model.discard(value)
        assert intervals.lowest() == min(model, default=None)
        assert intervals.size == len(model)
    assert [v for first, last in intervals for v in range(first, last + 1)] == sorted(model)
    assert all(v in intervals for v in model)


SPANS = (
    st.sets(st.integers(0, 80), max_size=12)
    .map(lambda s: sorted(s)[: len(s) // 2 * 2])
    .map(lambda s: list(zip(s[::2], s[1::2], strict=True)))
)


@given(SPANS, SPANS)
def test_subtract(wanted: list[tuple[int, int]], holes: list[tuple[int, int]]) -> None:
    def members(spans: list[tuple[int, int]]) -> set[int]:
        return {v for first, last in spans for v in range(first, last + 1)}

    assert members(subtract(wanted, holes)) == members(wanted) - members(holes)


EDGES = st.sampled_from([0, 1, 2, 253, 254, 255, 256, 257, 510, 511, 512, 513])


@given(EDGES | st.integers(0, 700), EDGES | st.integers(0, 700), st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_pool_gives_each_usable_address_once(start: int, length: int, avoid: bool) -> None:
    base = int(ipaddress.ip_address("192.0.2.0"))
    first, last = (ipaddress.ip_address(base + n) for n in (start, start + length))
    p = dataclasses.replace(pool("p", f"{first}-{last}", exclude=("192.0.2.8/30",)), avoid_buggy_ips=avoid)
    space = PoolSpace(p).spaces[4]
    expected = naive_addresses(p, 4)
    assert space.size == len(expected)
    given_out = []
    while (address := space.lowest()) is not None:
        given_out.append(address)
        space.take(address)
    assert given_out == expected
    for address in expected:
        space.give_back(address)
    assert space.free.size == len(expected)
