"""Corners of the rules, each of which one wrong line would turn into a lost address or a false alarm."""

from __future__ import annotations

import json

import pytest

from metallb_controller.allocator import Allocator, Refusal
from metallb_controller.plan import Plan
from metallb_controller.tracked import Tracked
from metallb_controller.wishes import FROM_POOL, Rules, Wish
from tests.unit.controller.make import World, pool, service, world

P = pool("p", "192.0.2.0/30")
DUAL = pool("d", "198.51.100.0/30", "2001:db8::/126")


def test_an_address_from_outside_the_pools_is_no_duplicate() -> None:
    made = World()
    made.put(service(status=("203.0.113.9", "192.0.2.1")))
    made.sync()
    made.configure(P)
    made.settle()
    assert made.ips("web") == ("192.0.2.1",)
    assert not any("DuplicateAddress" in text for text in made.said("web"))


def test_one_that_changes_its_family_and_gets_none_of_the_new_one_keeps_nothing() -> None:
    """Its address is of no use to it any more."""
    made = world(P)
    made.put(service())
    made.settle()
    made.edit("default/web", cluster_ips=service(families="6").cluster_ips, ip_families=("IPv6",))
    made.settle()
    assert made.ips("web") == ()
    assert "default/web" not in made.assigner.allocator.held
    assert made.assigner.allocator.in_use("p") == 0
    assert FROM_POOL not in made.objects["default/web"].annotations
    assert made.said("web")[-1].startswith("ClearAssignment")
    made.configure(P, pool("six", "2001:db8::/126"))
    made.settle()
    assert made.ips("web") == ("2001:db8::",)


@pytest.mark.parametrize("headless", [(), ("None",)])
def test_without_a_cluster_address_nothing_is_given_and_what_was_is_released(headless: tuple[str, ...]) -> None:
    made = world(P)
    made.put(service("new", cluster_ips=headless))
    made.settle()
    assert made.said("new") == []
    made.put(service())
    made.settle()
    made.edit("default/web", cluster_ips=headless)
    made.settle()
    assert made.ips("web") == ()
    assert made.said("web")[-1] == 'ClearAssignment: Released IP ["192.0.2.0"]: noClusterIPs'


def test_a_requested_address_that_is_held_need_not_be_given_once_more() -> None:
    """Its range is excluded by now: it stays, and the other family is found beside it."""
    made = world(P)
    made.put(service(families="46", policy="PreferDualStack", addresses="192.0.2.2"))
    made.settle()
    assert made.ips("web") == ("192.0.2.2",)
    made.configure(pool("p", "192.0.2.0/30", "2001:db8::/126", exclude=("192.0.2.2/32",)))
    made.settle()
    assert made.ips("web") == ("192.0.2.2", "2001:db8::")
    assert not any("AllocationFailed" in text for text in made.said("web"))


def test_the_second_family_comes_from_the_pool_of_the_first() -> None:
    made = world(pool("z", "192.0.2.0/30"))
    made.put(service(families="46", policy="PreferDualStack"))
    made.settle()
    made.configure(pool("a", "2001:db8:1::/126", priority=1), pool("z", "192.0.2.0/30", "2001:db8:2::/126"))
    made.settle()
    assert made.ips("web") == ("192.0.2.0", "2001:db8:2::")


def test_a_preferred_second_family_that_is_not_there_is_no_failure() -> None:
    made = world(P)
    made.put(service(families="46", policy="PreferDualStack"))
    made.settle()
    made.edit("default/web", labels={"a": "b"})
    made.settle()
    assert made.said("web") == ['IPAllocated: Assigned IP ["192.0.2.0"]']
    assert dict(made.assigner.pending()) == {"default/web": "one family of two"}


def test_who_asks_for_what_somebody_has_just_not_got_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 wait for IPv4; an IPv6 address comes free: one look tells that it is of no use to them."""
    made = world(pool("four", "192.0.2.1/32"), pool("six", "2001:db8::/126"))
    made.put(service("first", families="6", created=1))
    for i in range(301):
        made.put(service(f"s{i}", created=2 + i))
    made.settle()
    looks = 0
    find = Allocator.find

    def counted(self: Allocator, wish: Wish, keep: tuple[()] = ()) -> object:
        nonlocal looks
        looks += 1
        return find(self, wish, keep)

    monkeypatch.setattr(Allocator, "find", counted)
    made.remove("default/first")
    made.settle()
    assert looks == 1
    assert isinstance(find(made.assigner.allocator, Wish("d/x", None, (4,), frozenset(), (), ("", ""))), Refusal)  # type: ignore[arg-type]


def test_a_write_repeats_what_others_said_about_an_address_that_stays() -> None:
    """The mode of kube-proxy, the ports, and conditions are not ours to drop."""
    ingress = [{"ip": "192.0.2.1", "ipMode": "Proxy", "ports": [{"port": 80, "protocol": "TCP"}]}]
    status = {"loadBalancer": {"ingress": ingress}, "conditions": [{"type": "C", "status": "True"}]}
    meta = {
        "name": "web",
        "namespace": "default",
        "uid": "u",
        "resourceVersion": "7",
        "labels": {"a": "b"},
        "annotations": {"c": "d", FROM_POOL: "old"},
        "finalizers": ["f"],
    }
    spec = {"type": "LoadBalancer", "clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"]}
    tracked = Tracked.from_json(json.loads(json.dumps({"metadata": meta, "spec": spec, "status": status})))
    body = tracked.body(Plan(None, ("192.0.2.1", "2001:db8::1"), "p"))
    assert body["status"]["loadBalancer"]["ingress"] == [*ingress, {"ip": "2001:db8::1"}]
    assert body["status"]["conditions"] == status["conditions"]
    assert body["metadata"] == meta | {"annotations": {"c": "d", FROM_POOL: "p"}}
    cleared = tracked.body(Plan(None, ()))
    assert cleared["status"]["loadBalancer"] == {}
    assert cleared["metadata"]["annotations"] == {"c": "d"}


def test_the_class_of_another_implementation_is_never_served_by_default() -> None:
    for rules, served in ((Rules(), False), (Rules("x"), True), (Rules("y", also_classless=True), False)):
        assert rules.serve(service(load_balancer_class="x")) is served
    for rules, served in ((Rules(), True), (Rules("x"), False), (Rules("y", also_classless=True), True)):
        assert rules.serve(service()) is served


def test_one_family_moves_only_when_the_address_that_stays_is_shared_rightly() -> None:
    """Else it would be held under keys on which its sharers do not agree."""
    made = world(DUAL)
    made.put(service("one", ports=("TCP/1",), share="k", created=1))
    made.put(service("two", families="46", policy="RequireDualStack", ports=("TCP/2",), share="k", created=2))
    made.settle()
    assert made.ips("two") == ("198.51.100.0", "2001:db8::")
    made.edit("default/two", annotations=service(share="l", addresses="198.51.100.0,2001:db8::3").annotations)
    made.settle()
    assert made.ips("two") == ("198.51.100.0", "2001:db8::")
    assert "it keeps" in made.said("two")[-1]
    made.put(service("three", ports=("TCP/3",), share="l", created=3))
    made.settle()
    assert made.ips("three") == ("198.51.100.1",)
    made.edit("default/one", annotations=service(share="l").annotations)
    made.settle()
    assert made.ips("two") == ("198.51.100.0", "2001:db8::3")


def test_of_those_who_would_share_each_is_looked_at_for_itself() -> None:
    """The older one fails by its port, which says nothing about the younger one."""
    made = world(pool("one", "192.0.2.1/32"))
    made.put(service("holder", created=1))
    made.put(service("same", share="k", created=2))
    made.put(service("other", ports=("TCP/443",), share="k", created=3))
    made.settle()
    assert made.ips("same") == made.ips("other") == ()
    made.edit("default/holder", annotations=service(share="k").annotations)
    made.settle()
    assert (made.ips("same"), made.ips("other")) == ((), ("192.0.2.1",))


def test_an_object_made_anew_inherits_nothing_from_the_one_before() -> None:
    """Its deletion was never seen: only the list after it shows another uid."""
    made = world(P)
    made.put(service(addresses="192.0.2.3", created=1))
    made.settle()
    made.put(service(created=2))
    made.settle()
    assert made.ips("web") == ("192.0.2.0",)
    assert made.assigner.allocator.in_use("p") == 1


def test_a_second_family_comes_only_when_the_first_address_is_shared_rightly() -> None:
    made = world(DUAL)
    for i, name in enumerate(("one", "two")):
        made.put(service(name, ports=(f"TCP/{i + 1}",), share="k", created=i))
    made.settle()
    both = service(families="46")
    made.edit(
        "default/two",
        annotations=service(share="l").annotations,
        cluster_ips=both.cluster_ips,
        ip_families=both.ip_families,
        ip_family_policy="PreferDualStack",
    )
    made.settle()
    assert made.ips("two") == ("198.51.100.0",)
    assert "it keeps" in made.said("two")[-1]
    made.put(service("three", ports=("TCP/3",), share="l", created=3))
    made.settle()
    assert made.ips("three") == ("198.51.100.1",)
    made.edit("default/one", annotations=service(share="l").annotations)
    made.settle()
    assert made.ips("two") == ("198.51.100.0", "2001:db8::")
