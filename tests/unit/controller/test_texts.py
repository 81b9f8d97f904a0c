"""Every event and error text of the contract (section 2), each from the situation that causes it."""

from __future__ import annotations

import pytest

from metallb_common.config.model import ServiceAllocation
from metallb_controller.allocator import Allocator
from tests.unit.controller.make import config, pool, service, world

P = pool("p", "192.0.2.0/30")
FAILED = 'AllocationFailed: Failed to allocate IP for "default/web": '

CASES = {
    "assigned": ([P], {}, 'IPAllocated: Assigned IP ["192.0.2.0"]'),
    "assigned, dual": (
        [pool("p", "192.0.2.0/30", "2001:db8::/126")],
        {"families": "46", "policy": "RequireDualStack"},
        'IPAllocated: Assigned IP ["192.0.2.0" "2001:db8::"]',
    ),
    "none": ([pool("p", "2001:db8::/126")], {}, FAILED + "no available IPs"),
    "no pools": ([], {}, FAILED + "no available IPs"),
    "pool, ipv4": (
        [pool("p", "2001:db8::/126")],
        {"pool": "p"},
        FAILED + 'no available IPs in pool "p" for ipv4 IPFamily',
    ),
    "pool, ipv6": (
        [P],
        {"pool": "p", "families": "6"},
        FAILED + 'no available IPs in pool "p" for ipv6 IPFamily',
    ),
    "pool, dual": (
        [P],
        {"pool": "p", "families": "46", "policy": "RequireDualStack"},
        FAILED + 'no available IPs in pool "p" for dual IPFamily',
    ),
    "unknown pool": ([P], {"pool": "q"}, FAILED + 'unknown pool "q"'),
    "not in config": ([P], {"addresses": "198.51.100.1"}, FAILED + '["198.51.100.1"] is not allowed in config'),
    "not in config, field": (
        [P],
        {"load_balancer_ip": "198.51.100.1"},
        FAILED + '["198.51.100.1"] is not allowed in config',
    ),
    "buggy address": (
        [pool("p", "192.0.2.0/24", avoid_buggy_ips=True)],
        {"addresses": "192.0.2.255"},
        FAILED + '["192.0.2.255"] is not allowed in config: pool "p" never gives it out',
    ),
    "excluded address": (
        [pool("p", "192.0.2.0/24", exclude=("192.0.2.7/32",))],
        {"addresses": "192.0.2.7"},
        FAILED + '["192.0.2.7"] is not allowed in config: pool "p" never gives it out',
    ),
    "disabled, asked by address": (
        [pool("p", "192.0.2.0/24", disabled=True)],
        {"addresses": "192.0.2.7"},
        FAILED + '["192.0.2.7"] is not allowed in config: pool "p" is disabled',
    ),
    "disabled, asked by name": (
        [pool("p", "192.0.2.0/24", disabled=True)],
        {"pool": "p"},
        FAILED + 'pool "p" is disabled',
    ),
    "not for this namespace, by name": (
        [pool("p", "192.0.2.0/24", allocation=ServiceAllocation(namespaces=("prod",)))],
        {"pool": "p"},
        FAILED + 'pool "p" does not serve this service (service-allocation)',
    ),
    "not for this namespace, by address": (
        [pool("p", "192.0.2.0/24", allocation=ServiceAllocation(namespaces=("prod",)))],
        {"addresses": "192.0.2.1"},
        FAILED + '["192.0.2.1"] is not allowed in config: pool "p" does not serve this service (service-allocation)',
    ),
    "family": (
        [P],
        {"addresses": "192.0.2.1", "families": "6"},
        FAILED + 'requested loadBalancer IP(s) ["192.0.2.1"] does not match the ipFamily of the service',
    ),
    "family, one of two": (
        [pool("p", "192.0.2.0/30", "2001:db8::/126")],
        {"addresses": "192.0.2.1", "families": "46", "policy": "RequireDualStack"},
        FAILED + 'requested loadBalancer IP(s) ["192.0.2.1"] does not match the ipFamily of the service',
    ),
    "bad field": (
        [P],
        {"load_balancer_ip": "192.0.2.x"},
        'LoadBalancerFailed: invalid requested loadbalancer IPs: invalid spec.loadBalancerIP "192.0.2.x"',
    ),
    "bad annotation": (
        [P],
        {"addresses": "192.0.2.1, nonsense"},
        "LoadBalancerFailed: invalid requested loadbalancer IPs: "
        'invalid metallb.universe.tf/loadBalancerIPs: "192.0.2.1, nonsense"',
    ),
    "both": (
        [P],
        {"addresses": "192.0.2.1", "load_balancer_ip": "192.0.2.1"},
        "LoadBalancerFailed: invalid requested loadbalancer IPs: service can not have both "
        "metallb.universe.tf/loadBalancerIPs and svc.Spec.LoadBalancerIP",
    ),
    "three": (
        [P],
        {"addresses": "192.0.2.1,192.0.2.2,2001:db8::1"},
        "LoadBalancerFailed: invalid requested loadbalancer IPs: "
        "More than two addresses [192.0.2.1 192.0.2.2 2001:db8::1]",
    ),
    "same family": (
        [P],
        {"addresses": "192.0.2.1,192.0.2.2"},
        'LoadBalancerFailed: invalid requested loadbalancer IPs: "192.0.2.1" "192.0.2.2" has the same family',
    ),
    "cluster addresses": (
        [P],
        {"cluster_ips": ("10.0.0.1", "10.0.0.2")},
        'noclusterIPsIPFamily: Failed to retrieve ClusterIPs IPFamily for ["10.0.0.1" "10.0.0.2"]: '
        '"10.0.0.1" "10.0.0.2" has the same family',
    ),
    "cluster address unreadable": (
        [P],
        {"cluster_ips": ("ten",)},
        'noclusterIPsIPFamily: Failed to retrieve ClusterIPs IPFamily for ["ten"]: invalid address "ten"',
    ),
    "status": (
        [P],
        {"status": ("198.51.100.1", "198.51.100.2")},
        'nolbIPsIPFamily: Failed to retrieve LBIPs IPFamily for ["198.51.100.1" "198.51.100.2"]: '
        '"198.51.100.1" "198.51.100.2" has the same family',
    ),
    "prefixes": (
        [P],
        {"pool": "p", "annotations": {"metallb.io/address-pool": "q"}},
        "LoadBalancerFailed: annotations with the same meaning differ: "
        'metallb.universe.tf/address-pool "p" and metallb.io/address-pool "q"',
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_text(case: str) -> None:
    pools, asked, expected = CASES[case]
    made = world()
    made.configure(*pools)
    made.put(service(**asked))
    made.settle()
    assert expected in made.said("web")


SHARED = {
    "existing does not share": ({}, {"share": "k"}, ": existing service does not allow sharing"),
    "new does not share": ({"share": "k"}, {}, ": new service does not allow sharing"),
    "other key": ({"share": "a"}, {"share": "b"}, ""),
    "other backends": (
        {"share": "k", "external_traffic_policy": "Local"},
        {"share": "k", "external_traffic_policy": "Local"},
        "",
    ),
}


@pytest.mark.parametrize("case", SHARED)
def test_sharing_refused(case: str) -> None:
    first, second, reason = SHARED[case]
    made = world(P)
    made.put(service("old", **first))
    made.settle()
    made.put(service("web", ports=("TCP/443",), addresses="192.0.2.0", **second))
    made.settle()
    text = 'can\'t change sharing key for "default/web", address also in use by default/old'
    assert made.said("web") == [FAILED + text + reason]


def test_all_others_are_named_in_order() -> None:
    made = world(P)
    for name, port in (("b", "TCP/1"), ("a", "TCP/2")):
        made.put(service(name, share="k", ports=(port,)))
        made.settle()
    made.put(service("web", share="other", ports=("TCP/3",), addresses="192.0.2.0"))
    made.settle()
    assert made.said("web")[-1].endswith("address also in use by default/a,default/b")


def test_port_in_use() -> None:
    made = world(P)
    made.put(service("old", share="k"))
    made.settle()
    made.put(service("web", share="k", addresses="192.0.2.0"))
    made.settle()
    assert made.said("web") == [FAILED + 'port TCP/80 is already in use on "192.0.2.0"']


def test_config_conflict() -> None:
    made = world(P)
    made.put(service())
    made.settle()
    found = made.assigner.conflicts(config(pool("p", "198.51.100.0/24")))
    assert [str(c) for c in found] == ['service "default/web" cannot own "192.0.2.0" under new config']


def test_the_same_problem_is_told_once() -> None:
    made = world(P)
    made.put(service(pool="q"))
    made.settle()
    for _ in range(3):
        made.edit("default/web", labels={"n": "1"})
        made.settle()
    assert len(made.said("web")) == 1


def test_allocator_knows_no_pool_of_no_config() -> None:
    assert Allocator().conflicts(()) == []
