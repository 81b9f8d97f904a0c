"""Which Services are served, by their class and by what pools say; and what others have given is left alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from metallb_common.config.model import ServiceAllocation
from metallb_common.net.selectors import LabelSelector, Requirement
from metallb_controller.wishes import FROM_POOL, Rules
from tests.unit.controller.make import World, pool, service, world

P = pool("p", "192.0.2.0/30")


def got(made: World, **asked: object) -> tuple[str, ...]:
    made.put(service(**asked))  # type: ignore[arg-type]
    made.settle()
    return made.ips("web")


def test_classes() -> None:
    table = [
        (Rules(), None, True),
        (Rules(), "other", False),
        (Rules("ours"), "ours", True),
        (Rules("ours"), None, False),
        (Rules("ours", True), None, True),
        (Rules("ours", True), "other", False),
    ]
    for rules, lb_class, served in table:
        made = world(P, rules=rules)
        assert bool(got(made, load_balancer_class=lb_class)) is served, (rules, lb_class)


def test_a_classed_service_that_holds_an_address_of_ours_keeps_it() -> None:
    made = World()
    made.put(service(load_balancer_class="other", status=("192.0.2.0",)))
    made.sync()
    made.configure(P)
    made.put(service("next"))
    made.settle()
    assert made.ips("web") == ("192.0.2.0",)
    assert made.ips("next") == ("192.0.2.1",)


def test_a_foreign_status_of_a_foreign_class_is_left_alone() -> None:
    made = World()
    made.put(service(load_balancer_class="other", status=("203.0.113.7",)))
    made.sync()
    made.configure(P)
    made.settle()
    assert made.writes == []


def test_a_restart_gives_no_address_of_ours_to_an_older_service_of_another_implementation() -> None:
    made = world(P)
    made.put(service("ours", created=5))
    made.settle()
    made.put(service("theirs", created=1, load_balancer_class="other", status=("192.0.2.0",)))
    made.settle()
    for _ in range(2):
        assert made.ips("ours") == made.ips("theirs") == ("192.0.2.0",)
        assert made.said("ours") == ['IPAllocated: Assigned IP ["192.0.2.0"]']
        assert made.said("theirs")[-1].startswith(
            'DuplicateAddress: ["192.0.2.0"] has another owner, and somebody else'
        )
        made.restart()
        made.settle()
    # What it has from us before is as good as any.
    made = world(P)
    made.put(service("theirs", created=1, load_balancer_class="other", status=("192.0.2.1",)))
    made.settle()
    made.put(service("ours", created=5, status=("192.0.2.1",)))
    made.restart()
    made.settle()
    assert (made.ips("theirs"), made.ips("ours")) == (("192.0.2.1",), ("192.0.2.0",))


@pytest.mark.parametrize(("mine", "other"), [("", "b"), ("a", "b"), ("a", None)])
def test_what_another_installation_gave_from_its_own_pools_is_left_alone(mine: str, other: str | None) -> None:
    """It writes the same annotation, and would give the address again after every clearing."""
    made = world(P, rules=Rules(mine))
    for more in ({}, {"deleting": True}):
        theirs = service(load_balancer_class=other, status=("203.0.113.5",), annotations={FROM_POOL: P.name}, **more)
        made.put(theirs)
        made.settle()
        made.restart()
        made.settle()
    assert made.writes == []
    assert made.events == []


def test_what_a_config_takes_from_a_service_of_another_class_is_cleared() -> None:
    made = world(P)
    made.put(service(load_balancer_class="other", status=("192.0.2.0",)))
    made.settle()
    made.configure(pool("new", "198.51.100.0/30"))
    made.edit("default/web", labels={"a": "b"})
    made.settle()
    assert made.ips("web") == ()
    assert FROM_POOL not in made.objects["default/web"].annotations
    made.edit("default/web", ingress_ips=("203.0.113.5",), annotations={FROM_POOL: "theirs"})
    made.settle()
    assert made.ips("web") == ("203.0.113.5",), "it is somebody else's by now"


def test_service_allocation() -> None:
    selector = LabelSelector((Requirement("team", "In", ("blue",)),))
    named = pool("named", "192.0.2.0/32", allocation=ServiceAllocation(1, namespaces=("prod",)))
    labelled = pool("labelled", "192.0.2.1/32", allocation=ServiceAllocation(2, service_selectors=(selector,)))
    by_space = pool("space", "192.0.2.2/32", allocation=ServiceAllocation(3, namespace_selectors=(selector,)))
    made = world(named, labelled, by_space)
    made.assigner.set_namespaces({"blue": {"team": "blue"}})
    made.put(service("a", namespace="prod"))
    made.put(service("b", labels={"team": "blue"}))
    made.put(service("c", namespace="blue"))
    made.put(service("d", namespace="dev"))
    made.settle()
    assert made.ips("a", "prod") == ("192.0.2.0",)
    assert made.ips("b") == ("192.0.2.1",)
    assert made.ips("c", "blue") == ("192.0.2.2",)
    assert made.ips("d", "dev") == ()
    made.remove("blue/c")
    made.settle()
    assert made.ips("d", "dev") == ()
    made.assigner.set_namespaces({"blue": {"team": "blue"}, "dev": {"team": "blue"}})
    made.settle()
    assert made.ips("d", "dev") == ("192.0.2.2",)


def test_the_name_label_of_a_namespace_needs_no_watch() -> None:
    selector = LabelSelector((Requirement("kubernetes.io/metadata.name", "In", ("prod",)),))
    made = world(pool("p", "192.0.2.0/32", allocation=ServiceAllocation(namespace_selectors=(selector,))))
    made.put(service("a", namespace="dev"))
    made.put(service("b", namespace="prod"))
    made.settle()
    assert (made.ips("a", "dev"), made.ips("b", "prod")) == ((), ("192.0.2.0",))


@pytest.mark.parametrize(
    "requirement", [Requirement("env", "NotIn", ("prod",)), Requirement("env", "DoesNotExist")], ids=str
)
@pytest.mark.parametrize("watched", [True, False])
def test_a_label_that_is_not_known_is_not_taken_to_be_absent(requirement: Requirement, watched: bool) -> None:
    """Neither when the namespace has not been seen yet, nor without the right to see it; nor for one family more."""
    rules = ServiceAllocation(namespace_selectors=(LabelSelector((requirement,)),))
    made = world(pool("p", "192.0.2.0/29", "2001:db8::/126", allocation=rules))
    if watched:
        made.assigner.set_namespaces({"default": {}})
        made.put(service("seen"))
    asked: tuple[dict[str, Any], ...] = ({}, {"pool": "p"}, {"addresses": "192.0.2.7"}, {"families": "46"})
    for i, how in enumerate(asked):
        made.put(service(f"a{i}", namespace="new", **how))
    made.settle()
    assert not any(made.ips(f"a{i}", "new") for i in range(4))
    assert not watched or made.ips("seen")
    made.assigner.set_namespaces({"default": {}, "new": {"env": "prod"}})
    made.settle()
    assert not any(made.ips(f"a{i}", "new") for i in range(4))
    made.assigner.set_namespaces({"default": {}, "new": {}})
    made.settle()
    assert all(made.ips(f"a{i}", "new") for i in range(4))


def test_a_selector_that_asks_for_nothing_needs_no_labels() -> None:
    rules = ServiceAllocation(namespace_selectors=(LabelSelector(),))
    made = world(pool("p", "192.0.2.0/32", allocation=rules))
    assert got(made) == ("192.0.2.0",)


@pytest.mark.parametrize(
    "shut",
    [{"disabled": True}, {"allocation": ServiceAllocation(namespaces=("prod",))}, {"exclude": ("2001:db8::/126",)}],
)
def test_a_pool_that_gives_nothing_gives_no_second_family_either(shut: dict[str, Any]) -> None:
    made = world(pool("d", "198.51.100.0/30", "2001:db8::/126"))
    assert got(made, addresses="198.51.100.1") == ("198.51.100.1",)
    made.configure(pool("d", "198.51.100.0/30", "2001:db8::/126", **shut))
    made.edit("default/web", cluster_ips=service(families="46").cluster_ips, ip_family_policy="PreferDualStack")
    made.settle()
    assert made.ips("web") == ("198.51.100.1",)
    made.configure(pool("d", "198.51.100.0/30", "2001:db8::/126"))
    made.settle()
    assert made.ips("web") == ("198.51.100.1", "2001:db8::")


@pytest.mark.parametrize("asked", [{}, {"pool": "p"}, {"families": "46", "policy": "PreferDualStack"}])
def test_nobody_joins_an_address_that_was_excluded(asked: dict[str, Any]) -> None:
    """As when it is asked for by name. Who holds it keeps it."""
    made = world(P)
    assert got(made, share="k") == ("192.0.2.0",)
    made.configure(pool("p", "192.0.2.0/30", exclude=("192.0.2.0/32",)))
    made.put(service("late", share="k", ports=("TCP/443",), **asked))
    made.put(service("later", share="k", ports=("TCP/444",), created=1, **asked))
    made.settle()
    assert made.ips("web") == ("192.0.2.0",)
    assert made.ips("late") == made.ips("later") == ("192.0.2.1",)


def test_a_disabled_pool_keeps_what_is_given() -> None:
    made = world(P)
    got(made)
    made.configure(dataclasses.replace(P, disabled=True))
    made.put(service("late"))
    made.settle()
    assert made.ips("web") == ("192.0.2.0",)
    assert made.ips("late") == ()
