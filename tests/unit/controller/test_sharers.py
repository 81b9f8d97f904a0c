"""Sharers whose edits come together, contradict each other or outlive a restart: what the objects say counts."""

from __future__ import annotations

from typing import Any

import pytest

from metallb_controller.sharing import Allocation
from tests.unit.controller.make import World, pool, service, world

P = pool("p", "192.0.2.0/30")
DUAL = pool("d", "198.51.100.0/30", "2001:db8::/126")
SHARE = "metallb.universe.tf/allow-shared-ip"


def held(made: World, name: str) -> Allocation:
    return made.assigner.allocator.held[f"default/{name}"]


def test_who_joins_is_judged_by_edits_of_the_holder_that_wait_beside_it() -> None:
    """The older Service is planned first: it must not join an address by ports that its holder has left."""
    made = world(DUAL)
    made.put(service("old", families="6", ports=("TCP/1",), created=1))
    made.put(service("holder", families="46", policy="PreferDualStack", ports=("UDP/80",), share="k", created=2))
    made.settle()
    assert made.ips("holder") == ("198.51.100.0", "2001:db8::1")
    # One batch: the holder takes the port (and with Local other backends), then the older wants its address.
    made.edit("default/holder", ports=service(ports=("TCP/1",)).ports, external_traffic_policy="Local")
    asked = service(share="k", addresses="2001:db8::1").annotations
    made.edit("default/old", annotations={**made.objects["default/old"].annotations, **asked})
    made.settle()
    assert made.ips("old") == ("2001:db8::",)
    assert made.ips("holder") == ("198.51.100.0", "2001:db8::1")
    assert any("AllocationFailed" in text for text in made.said("old"))
    assert not any("AllocationFailed" in text for text in made.said("holder"))


@pytest.mark.parametrize("change", ["ports", "key"])
def test_a_newcomer_is_judged_by_an_edit_that_waits_beside_it(change: str) -> None:
    made = world(P)
    made.put(service("holder", ports=("TCP/80",), share="k", created=9))
    made.settle()
    if change == "ports":
        made.edit("default/holder", ports=service(ports=("TCP/443",)).ports)
    else:
        made.edit("default/holder", annotations={SHARE: "l"})
    made.put(service("new", ports=("TCP/443",), share="k", created=1))
    made.settle()
    assert made.ips("holder") == ("192.0.2.0",)
    assert made.ips("new") == ("192.0.2.1",)


def test_ports_of_a_service_that_contradicts_itself_are_taken_all_the_same() -> None:
    made = world(P)
    made.put(service("holder", ports=("TCP/80",), share="k", created=1))
    made.settle()
    both = {"metallb.io/address-pool": "p", "metallb.universe.tf/address-pool": "q"}
    made.edit(
        "default/holder",
        annotations={**made.objects["default/holder"].annotations, **both},
        ports=service(ports=("TCP/443",)).ports,
    )
    made.settle()
    made.put(service("new", ports=("TCP/443",), share="k", created=2))
    made.put(service("friend", ports=("TCP/80",), share="k", created=3))
    made.settle()
    assert (made.ips("holder"), made.ips("new")) == (("192.0.2.0",), ("192.0.2.1",))
    assert made.ips("friend") == ("192.0.2.0",)


def test_nobody_joins_sharers_whose_keys_were_edited_apart() -> None:
    """The newcomer's key would not be equal to that of every holder, and a restart would make it a rival."""
    made = world(P)
    made.put(service("one", ports=("TCP/1",), share="k", created=1))
    made.put(service("two", ports=("TCP/2",), share="k", created=2))
    made.settle()
    assert made.ips("one") == made.ips("two") == ("192.0.2.0",)
    made.edit("default/one", annotations={SHARE: "l"})
    made.settle()
    made.put(service("three", ports=("TCP/3",), share="k", created=3))
    made.put(service("four", ports=("TCP/4",), share="l", created=4))
    made.settle()
    assert made.ips("one") == made.ips("two") == ("192.0.2.0",)
    assert made.ips("three") != ("192.0.2.0",) != made.ips("four")
    # When they agree again, whoever comes may join.
    made.edit("default/two", annotations={SHARE: "l"})
    made.settle()
    made.put(service("five", ports=("TCP/5",), share="l", addresses="192.0.2.0", created=5))
    made.settle()
    assert made.ips("five") == ("192.0.2.0",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"annotations": {SHARE: "l"}},
            'can\'t change sharing key for "default/two", address also in use by default/one: it keeps ["192.0.2.0"]; '
            "a restart of the controller gives the younger one another address",
        ),
        (
            {"annotations": {}},
            'can\'t change sharing key for "default/two", address also in use by default/one: new service does not '
            'allow sharing: it keeps ["192.0.2.0"]; a restart of the controller gives the younger one another address',
        ),
        (
            {"ports": service(ports=("TCP/1",)).ports},
            'port TCP/1 is already in use on "192.0.2.0": it keeps ["192.0.2.0"]',
        ),
        (
            {"external_traffic_policy": "Local"},
            'can\'t change sharing key for "default/two", address also in use by default/one: it keeps ["192.0.2.0"]',
        ),
    ],
)
@pytest.mark.parametrize("older", [True, False])
def test_whoever_is_edited_apart_is_told_at_once_what_becomes_of_it(
    change: dict[str, Any], reason: str, older: bool
) -> None:
    """And the text is true."""
    made = world(P)
    made.put(service("one", ports=("TCP/1",), share="k", created=1))
    made.put(service("two", ports=("TCP/2",), share="k", created=0 if older else 2))
    made.settle()
    made.edit("default/two", **change)
    made.settle()
    assert made.said("two")[-1] == f'AllocationFailed: Failed to allocate IP for "default/two": {reason}'
    assert dict(made.assigner.pending()) == {"default/two": f'Failed to allocate IP for "default/two": {reason}'}
    assert made.ips("one") == made.ips("two") == ("192.0.2.0",)
    made.restart()
    made.settle()
    young, old = ("one", "two") if older else ("two", "one")
    assert made.ips(old) == ("192.0.2.0",)
    assert made.ips(young) == ("192.0.2.1" if "restart" in reason else "192.0.2.0",)


def test_an_edit_that_makes_room_wakes_who_waits() -> None:
    made = world(pool("one", "192.0.2.0/32"))
    made.put(service("holder", ports=("TCP/80",), share="k", created=1))
    made.put(service("late", ports=("TCP/80",), share="k", created=2))
    made.settle()
    assert made.ips("late") == ()
    made.edit("default/holder", ports=service(ports=("TCP/443",)).ports)
    made.settle()
    assert made.ips("holder") == made.ips("late") == ("192.0.2.0",)


def test_an_edited_key_is_met_when_the_other_sharer_says_the_same_later() -> None:
    made = world(P)
    made.put(service("one", ports=("TCP/1",), share="k", created=1))
    made.put(service("two", ports=("TCP/2",), share="k", created=2))
    made.settle()
    for name in ("one", "two"):
        made.edit(f"default/{name}", annotations={SHARE: "l"})
        made.settle()
    assert held(made, "one").keys == held(made, "two").keys == ("l", "")
    assert made.ips("one") == made.ips("two") == ("192.0.2.0",)


def test_a_status_that_is_not_cleared_yet_gives_no_right_to_a_port() -> None:
    """Released and given on, then wanted back before the old status was overwritten."""
    made = world(P)
    made.put(service("web", share="k", created=1))
    made.settle()
    made.edit("default/web", type="ClusterIP")
    made.put(service("heir", share="k", addresses="192.0.2.0", created=2))
    while made.assigner.busy:
        made.assigner.reconcile(100)
    assert made.assigner.allocator.holders(held(made, "heir").addresses[0]) == ("default/heir",)
    made.edit("default/web", type="LoadBalancer")
    assert made.ips("web") == ("192.0.2.0",)  # nothing was written so far
    made.settle()
    assert (made.ips("web"), made.ips("heir")) == (("192.0.2.1",), ("192.0.2.0",))
    assert any(text.startswith("DuplicateAddress") for text in made.said("web"))


@pytest.mark.parametrize("policy", ["PreferDualStack", "RequireDualStack"])
def test_of_two_addresses_a_restart_takes_back_only_the_one_with_two_owners(policy: str) -> None:
    """The other one is nobody else's: an older Service that has asked for it in vain must not get it."""
    made = world(pool("d", "198.51.100.0/31", "2001:db8::/126"))
    made.put(service("greedy", addresses="198.51.100.1", created=1))
    made.put(service("six", families="6", share="k", created=2))
    made.put(service("both", families="46", policy=policy, ports=("UDP/80",), share="k", created=3))
    made.settle()
    assert made.ips("both") == ("198.51.100.0", "2001:db8::")
    made.edit("default/six", annotations={})
    made.edit("default/greedy", annotations=service(addresses="198.51.100.0").annotations)
    made.settle()
    before = len(made.said("both"))
    made.restart()
    made.settle()
    assert made.ips("greedy") == ("198.51.100.1",)
    assert made.ips("six") == ("2001:db8::",)
    assert made.ips("both") == ("198.51.100.0", "2001:db8::1")
    said = made.said("both")[before:]
    assert said[0].startswith('DuplicateAddress: ["2001:db8::"] is taken back: ')
    assert said[1] == 'IPAllocated: Assigned IP ["198.51.100.0" "2001:db8::1"]'
    assert len(said) == 2


def test_the_address_that_stays_is_kept_when_there_is_no_other_for_the_one_taken_back() -> None:
    made = world(pool("d", "198.51.100.0/30", "2001:db8::/128"))
    made.put(service("six", families="6", share="k", created=1))
    made.put(service("both", families="46", policy="RequireDualStack", ports=("UDP/80",), share="k", created=2))
    made.settle()
    made.edit("default/six", annotations={})
    made.settle()
    made.restart()
    made.settle()
    assert (made.ips("six"), made.ips("both")) == (("2001:db8::",), ("198.51.100.0",))
    made.remove("default/six")
    made.settle()
    assert made.ips("both") == ("198.51.100.0", "2001:db8::")


@pytest.mark.parametrize("added", ["j", "k first"])
@pytest.mark.parametrize("who", ["one", "two"])
def test_a_key_under_each_prefix_takes_no_address_from_either_sharer(who: str, added: str) -> None:
    """Neither now, nor at a restart: it may be the old key that is meant."""
    made = world(P)
    made.put(service("one", ports=("TCP/1",), share="k", created=1))
    made.put(service("two", ports=("TCP/2",), share="k", created=2))
    made.settle()
    old, new = SHARE, "metallb.io/allow-shared-ip"
    made.edit(f"default/{who}", annotations={old: "j", new: "k"} if added == "k first" else {old: "k", new: "j"})
    made.settle()
    conflict = "LoadBalancerFailed: annotations with the same meaning differ: "
    assert made.said(who)[-1].startswith(conflict)
    before = len(made.events)
    for _ in range(2):
        made.restart()
        made.settle()
        assert made.ips("one") == made.ips("two") == ("192.0.2.0",)
    assert {(key, say.reason) for key, say in made.events[before:]} == {(f"default/{who}", "LoadBalancerFailed")}
    # Nobody joins who could not know with whom.
    for i, key in enumerate("jk"):
        made.put(service(f"late{i}", ports=(f"UDP/{i + 1}",), share=key, created=3 + i))
    made.settle()
    assert (made.ips("late0"), made.ips("late1")) == (("192.0.2.1",), ("192.0.2.2",))
    # As soon as it says one thing again, they are sharers as before.
    made.edit(f"default/{who}", annotations={SHARE: "k"})
    made.settle()
    assert held(made, "one").keys == held(made, "two").keys == held(made, who).wanted == ("k", "")
    assert made.assigner.waiting == {}


def test_two_that_contradict_themselves_stay_together_by_what_both_say() -> None:
    made = world(DUAL)
    for i, name in enumerate(("one", "two", "three")):
        made.put(service(name, ports=(f"TCP/{i + 1}",), share="k", families="46", created=i))
    made.settle()
    for name, other in (("one", "j"), ("two", "l")):
        made.edit(f"default/{name}", annotations={SHARE: other, "metallb.io/allow-shared-ip": "k"})
    made.settle()
    made.restart()
    made.settle()
    assert made.ips("one") == made.ips("two") == made.ips("three") == ("198.51.100.0", "2001:db8::")


def test_whoever_contradicts_itself_and_shares_by_neither_is_told_what_becomes_of_it() -> None:
    made = world(P)
    made.put(service("one", ports=("TCP/1",), share="k", created=1))
    made.put(service("two", ports=("TCP/2",), share="k", created=2))
    made.settle()
    made.edit("default/two", annotations={SHARE: "j", "metallb.io/allow-shared-ip": "l"})
    made.settle()
    assert made.ips("one") == made.ips("two") == ("192.0.2.0",)
    assert made.said("two")[-1] == (
        'AllocationFailed: Failed to allocate IP for "default/two": can\'t change sharing key for "default/two", '
        'address also in use by default/one: new service does not allow sharing: it keeps ["192.0.2.0"]; '
        "a restart of the controller takes it from the younger one"
    )
    made.restart()
    made.settle()
    assert (made.ips("one"), made.ips("two")) == (("192.0.2.0",), ())
    assert made.said("two")[-1] == 'ClearAssignment: Released IP ["192.0.2.0"]: LoadBalancerFailed'


def test_an_address_that_somebody_else_has_is_not_said_to_be_missing_in_the_config() -> None:
    made = world(pool("one", "192.0.2.0/32"))
    made.put(service("one", status=("192.0.2.0",), created=1))
    made.put(service("two", status=("192.0.2.0",), created=2))
    made.restart()
    made.settle()
    assert made.said("two")[-1] == (
        'ClearAssignment: Released IP ["192.0.2.0"]: the service has no right to it any more'
    )
