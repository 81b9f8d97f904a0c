"""What a Service of two families gets: one pool or two, one address now and the other later."""

from __future__ import annotations

from typing import Any

import pytest

from metallb_common.config.model import ServiceAllocation
from metallb_controller.wishes import FROM_POOL
from tests.unit.controller.make import World, pool, service, world

P = pool("p", "192.0.2.0/30")
DUAL = pool("d", "198.51.100.0/30", "2001:db8::/126")


def got(made: World, **asked: object) -> tuple[str, ...]:
    made.put(service(**asked))  # type: ignore[arg-type]
    made.settle()
    return made.ips("web")


def test_dual_stack_from_one_pool_in_the_order_of_the_service() -> None:
    made = world(DUAL)
    assert got(made, families="64", policy="RequireDualStack") == ("2001:db8::", "198.51.100.0")


def test_require_dual_stack_gets_both_or_none() -> None:
    made = world(P)
    assert got(made, families="46", policy="RequireDualStack") == ()


def test_prefer_dual_stack_takes_one_and_later_the_other() -> None:
    made = world(P)
    assert got(made, families="64", policy="PreferDualStack") == ("192.0.2.0",)
    made.configure(P, pool("six", "2001:db8::/126"))
    made.settle()
    assert set(made.ips("web")) == {"192.0.2.0", "2001:db8::"}


@pytest.mark.parametrize("new", [("203.0.113.0/30",), ("2001:db8:1::/126",), ("203.0.113.0/30", "2001:db8:1::/128")])
def test_a_preferred_family_that_is_held_is_not_lost_for_a_pool_without_it(new: tuple[str, ...]) -> None:
    """The pool has never had it, or it is all given."""
    made = world(DUAL, pool("new", *new, auto_assign=False))
    made.put(service("first", families="6", pool="new"))
    made.settle()
    before = got(made, families="46", policy="PreferDualStack", created=1)
    made.edit("default/web", annotations=service(pool="new").annotations)
    made.settle()
    assert made.ips("web") == before
    text = 'Failed to allocate IP for "default/web": no available IPs in pool "new" for dual IPFamily'
    assert made.said("web")[-1] == f"AllocationFailed: {text}"
    assert dict(made.assigner.pending())["default/web"] == text
    made.restart()
    made.settle()
    assert made.ips("web") == before
    made.configure(DUAL, pool("new", "203.0.113.0/30", "2001:db8:1::/126", auto_assign=False))
    made.settle()
    assert made.ips("web") == ("203.0.113.0", "2001:db8:1::1")


def test_one_that_holds_one_family_moves_to_a_pool_that_has_it() -> None:
    for new, moves in (("203.0.113.0/30", True), ("2001:db8:1::/126", False)):
        made = world(P, pool("new", new, auto_assign=False))
        before = got(made, families="46", policy="PreferDualStack")
        made.edit("default/web", annotations=service(pool="new").annotations)
        made.settle()
        assert made.ips("web") == (("203.0.113.0",) if moves else before)


def test_dual_stack_may_span_two_pools_of_one_protocol() -> None:
    made = world(P, pool("six", "2001:db8::/126"))
    assert got(made, families="46", policy="RequireDualStack") == ("192.0.2.0", "2001:db8::")
    assert made.objects["default/web"].annotations[FROM_POOL] == "p,six"
    mixed = world(P, pool("six", "2001:db8::/126", protocol="bgp"))
    assert got(mixed, families="46", policy="RequireDualStack") == ()


def test_the_second_family_never_comes_from_a_pool_of_the_other_protocol() -> None:
    both = service(families="46")
    for policy in ("PreferDualStack", "RequireDualStack"):
        made = world(P, pool("six", "2001:db8::/126", protocol="bgp"))
        assert got(made) == ("192.0.2.0",)
        made.edit("default/web", cluster_ips=both.cluster_ips, ip_family_policy=policy)
        made.settle()
        assert made.ips("web") == ("192.0.2.0",)
        made.edit("default/web", labels={"a": "b"})
        made.settle()
        assert made.ips("web") == ("192.0.2.0",)
        made.configure(P, pool("six", "2001:db8::/126", protocol="bgp"), pool("zix", "2001:db8:1::/126"))
        made.settle()
        assert made.ips("web") == ("192.0.2.0", "2001:db8:1::")


def test_two_shared_addresses_are_of_one_protocol_too() -> None:
    for third in ((), ("2001:db8:1::/126",)):
        made = world(P, pool("q", "2001:db8::/126", protocol="bgp"), *(pool("r", r) for r in third))
        made.put(service("four", share="k", ports=("TCP/1",), created=1))
        made.put(service("six", share="k", ports=("TCP/2",), families="6", pool="q", created=2))
        made.put(service("zix", share="k", ports=("TCP/3",), families="6", pool="r", created=3))
        made.settle()
        expected = ("192.0.2.0", "2001:db8:1::") if third else ()
        assert got(made, families="46", policy="RequireDualStack", share="k", created=4) == expected
    # Of one family it is the first pool that has one, whatever its protocol.
    made = world(pool("a", "192.0.2.0/32"), pool("b", "192.0.2.1/32", protocol="bgp"), pool("c", "192.0.2.2/32"))
    for i, name in enumerate("bc"):
        made.put(service(name, share="k", ports=(f"TCP/{i + 1}",), pool=name, created=i))
    made.settle()
    assert got(made, share="k", created=4) == ("192.0.2.1",)


def test_becoming_dual_stack_and_back_keeps_the_first_address() -> None:
    made = world(DUAL)
    assert got(made) == ("198.51.100.0",)
    both = service(families="46").cluster_ips
    made.edit("default/web", cluster_ips=both, ip_family_policy="RequireDualStack")
    made.settle()
    assert made.ips("web") == ("198.51.100.0", "2001:db8::")
    made.edit("default/web", cluster_ips=both[:1], ip_family_policy="SingleStack")
    made.settle()
    assert made.ips("web") == ("198.51.100.0",)
    assert made.assigner.allocator.in_use("d") == 1


def test_requested_pair_and_requested_one_of_a_preferred_pair() -> None:
    made = world(DUAL)
    asked = "2001:db8::3, 198.51.100.2"
    assert got(made, families="46", policy="RequireDualStack", addresses=asked) == ("198.51.100.2", "2001:db8::3")
    made.put(service("half", families="46", policy="PreferDualStack", addresses="2001:db8::2"))
    made.settle()
    assert made.ips("half") == ("198.51.100.0", "2001:db8::2")


def test_the_order_of_a_status_never_flips() -> None:
    made = World()
    made.put(service(families="46", policy="RequireDualStack", status=("2001:db8::1", "198.51.100.1")))
    made.sync()
    made.configure(DUAL)
    made.settle()
    assert made.ips("web") == ("2001:db8::1", "198.51.100.1")


BOTH: dict[str, Any] = {"families": "46", "policy": "PreferDualStack"}


def test_the_second_family_beside_a_requested_address_may_come_from_another_pool() -> None:
    """Of the same protocol; from the address's own pool first, and from none that does not serve the Service."""
    made = world(
        pool("a", "2001:db8:a::/126", protocol="bgp"),
        pool("b", "2001:db8:b::/126", allocation=ServiceAllocation(namespaces=("prod",))),
        pool("c", "2001:db8:c::/126"),
        pool("four", "192.0.2.0/29"),
        pool("own", "198.51.100.0/29", "2001:db8:d::/128", auto_assign=False),
    )
    for i, (address, second) in enumerate(
        [
            ("192.0.2.5", "2001:db8:c::"),
            ("198.51.100.5", "2001:db8:d::"),
            ("198.51.100.6", "2001:db8:c::1"),
            ("2001:db8:c::3", "192.0.2.0"),
        ]
    ):
        made.put(service(f"s{i}", addresses=address, created=i, **BOTH))
        made.settle()
        assert set(made.ips(f"s{i}")) == {address, second}
    assert made.objects["default/s2"].annotations[FROM_POOL] == "own,c"


def test_the_second_family_beside_a_requested_address_comes_later_if_need_be() -> None:
    made = world(pool("four", "192.0.2.0/29"))
    made.put(service("web", addresses="192.0.2.5", **BOTH))
    made.settle()
    assert made.ips("web") == ("192.0.2.5",)
    made.configure(pool("four", "192.0.2.0/29"), pool("six", "2001:db8::/126"))
    made.settle()
    assert made.ips("web") == ("192.0.2.5", "2001:db8::")


@pytest.mark.parametrize("policy", ["PreferDualStack", "RequireDualStack"])
def test_with_two_families_a_sharer_joins_where_it_can(policy: str) -> None:
    """A free pair of an earlier pool comes after an address that is held under its key."""
    made = world(pool("a", "192.0.2.0/29", "2001:db8:a::/126"), pool("b", "198.51.100.0/29", "2001:db8:b::/126"))
    made.put(service("one", share="k", pool="b", created=1))
    made.put(service("two", share="k", families="64", policy=policy, ports=("TCP/443",), created=2))
    made.settle()
    assert made.ips("two") == ("2001:db8:b::", "198.51.100.0")


def test_a_sharer_joins_with_one_family_and_takes_the_other_from_another_pool() -> None:
    made = world(pool("a", "192.0.2.0/29", "2001:db8:a::/126"), pool("b", "198.51.100.0/29"))
    made.put(service("one", share="k", pool="b", created=1))
    made.put(service("two", share="k", ports=("TCP/443",), created=2, **BOTH))
    made.settle()
    assert made.ips("two") == ("198.51.100.0", "2001:db8:a::")


def test_who_gets_one_family_of_two_joins_all_the_same() -> None:
    made = world(pool("a", "192.0.2.0/29"), pool("b", "198.51.100.0/29"))
    made.put(service("one", share="k", pool="b", created=1))
    made.put(service("two", share="k", ports=("TCP/443",), created=2, **BOTH))
    made.settle()
    assert made.ips("two") == ("198.51.100.0",)
