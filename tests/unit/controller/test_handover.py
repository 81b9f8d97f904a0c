"""An address that moves: written on the new Service only after it is gone from the old one."""

from __future__ import annotations

from typing import Any

import pytest

from metallb_controller.tracked import Tracked
from metallb_controller.wishes import FROM_POOL, Rules
from tests.unit.controller.make import World, pool, service, world

P = pool("p", "192.0.2.0/30")
ASKED = "metallb.universe.tf/loadBalancerIPs"


def think(made: World) -> None:
    while made.assigner.busy:
        made.assigner.reconcile(100)


def write(made: World, name: str) -> None:
    """One write, begun, done and answered."""
    key = f"default/{name}"
    made.todo.pop(key, None)
    work = made.assigner.work(key)
    assert work is not None, f"{name} has nothing to write, or is held back"
    made.write(key, work[1])
    think(made)


def waits(made: World, name: str) -> bool:
    """Whether there is something to write that is held back."""
    key = f"default/{name}"
    tracked = made.assigner.services[key]
    made.todo.pop(key, None)
    return tracked.decided is not None and made.assigner.work(key) is None


def asking(made: World, name: str, addresses: str) -> None:
    made.edit(f"default/{name}", annotations={**made.objects[f"default/{name}"].annotations, ASKED: addresses})


def test_the_next_owner_waits_until_the_last_one_was_written() -> None:
    made = world(pool("one", "192.0.2.1/32"))
    made.put(service("old", created=1))
    made.settle()
    made.put(service("new", created=2))
    made.edit("default/old", type="ClusterIP")
    think(made)
    assert made.assigner.allocator.holders(next(iter(made.assigner.allocator.held["default/new"].addresses)))
    assert waits(made, "new")
    made.put(service("other", created=3))  # has nothing to do with it
    think(made)
    write(made, "old")
    assert "default/new" in made.todo
    write(made, "new")
    assert (made.ips("old"), made.ips("new")) == ((), ("192.0.2.1",))


def test_a_deleted_owner_shows_nothing() -> None:
    made = world(pool("one", "192.0.2.1/32"))
    made.put(service("old", created=1))
    made.put(service("new", created=2))
    made.settle()
    made.remove("default/old")
    think(made)
    write(made, "new")


def exchange(made: World, first: str, second: str) -> None:
    """Let both want what the other shows, through a free address that was never written."""
    (a,), (b,) = made.ips(first), made.ips(second)
    asking(made, first, "192.0.2.3")
    think(made)
    asking(made, second, a)
    think(made)
    asking(made, first, b)
    think(made)


def test_two_that_change_addresses_do_it_in_three_writes_and_the_younger_gives_way() -> None:
    made = world(P)
    made.put(service("a", created=1))
    made.put(service("b", created=2))
    made.settle()
    exchange(made, "a", "b")
    assert waits(made, "a")
    made.todo.clear()
    write(made, "b")
    assert (made.ips("a"), made.ips("b")) == (("192.0.2.0",), ())
    assert made.said("b")[-1] == (
        'ClearAssignment: Released IP ["192.0.2.1"]: it changes addresses with another service'
    )
    assert FROM_POOL not in made.objects["default/b"].annotations
    write(made, "a")
    write(made, "b")
    assert (made.ips("a"), made.ips("b")) == (("192.0.2.1",), ("192.0.2.0",))
    assert made.said("b")[-1] == 'IPAllocated: Assigned IP ["192.0.2.0"]'
    assert made.objects["default/b"].annotations[FROM_POOL] == "p"
    made.settle()
    assert made.assigner.summary()["handovers"] == 0


def test_whoever_is_asked_first_the_younger_gives_way() -> None:
    made = world(P)
    made.put(service("a", created=1))
    made.put(service("b", created=2))
    made.settle()
    exchange(made, "a", "b")
    assert waits(made, "a")
    assert "default/b" in made.todo
    made.settle()
    assert (made.ips("a"), made.ips("b")) == (("192.0.2.1",), ("192.0.2.0",))
    assert [t for t in made.said("a") if t.startswith("ClearAssignment")] == []


def test_a_circle_of_three() -> None:
    made = world(P)
    for i, name in enumerate("abc"):
        made.put(service(name, created=i))
    made.settle()
    asking(made, "a", "192.0.2.3")
    think(made)
    for name, address in (("c", "192.0.2.0"), ("b", "192.0.2.2"), ("a", "192.0.2.1")):
        asking(made, name, address)
        think(made)
    made.settle()
    assert [made.ips(n)[0] for n in "abc"] == ["192.0.2.1", "192.0.2.2", "192.0.2.0"]
    assert made.writes[-4:] == ["default/c", "default/b", "default/a", "default/c"]


def test_in_an_exchange_the_address_of_the_other_family_stays() -> None:
    made = world(pool("d", "192.0.2.0/30", "2001:db8::/126"))
    made.put(service("a", created=1))
    made.put(service("b", families="46", policy="RequireDualStack", created=2))
    made.settle()
    assert made.ips("b") == ("192.0.2.1", "2001:db8::")
    asking(made, "a", "192.0.2.3")
    think(made)
    asking(made, "b", "192.0.2.0,2001:db8::")
    think(made)
    asking(made, "a", "192.0.2.1")
    think(made)
    assert waits(made, "a")
    write(made, "b")
    assert made.ips("b") == ("2001:db8::",)
    assert made.said("b")[-1] == 'IPAllocated: Assigned IP ["2001:db8::"]'
    made.settle()
    assert (made.ips("a"), made.ips("b")) == (("192.0.2.1",), ("192.0.2.0", "2001:db8::"))


def test_a_write_that_may_have_happened_counts_until_a_late_look() -> None:
    """Its Service has got another address since, because the sharer whom it would have joined was edited."""
    made = world(P)
    made.put(service("holder", ports=("TCP/1",), share="k", created=1))
    made.settle()
    made.put(service("friend", ports=("TCP/2",), share="k", created=2))
    think(made)
    key = "default/friend"
    work = made.assigner.work(key)
    assert work is not None
    assert work[1].ingress == ("192.0.2.0",)
    made.assigner.begins(key, work[1])
    made.assigner.ended(key, happened=None)
    made.edit("default/holder", annotations={})
    think(made)
    asking(made, "holder", "192.0.2.3")
    think(made)
    write(made, "holder")
    made.put(service("late", addresses="192.0.2.0", created=3))
    think(made)
    assert waits(made, "late")
    assert made.assigner.doubtful(key)
    made.assigner.seen(Tracked(made.objects[key], b"[{},{}]"))
    assert not made.assigner.doubtful(key)
    assert "default/late" in made.todo
    write(made, "late")
    made.settle()
    assert [made.ips(n)[0] for n in ("holder", "friend", "late")] == ["192.0.2.3", "192.0.2.1", "192.0.2.0"]


@pytest.mark.parametrize("newer", [True, False])
def test_only_a_new_version_ends_the_doubt(newer: bool) -> None:
    made = world(P)
    made.put(service("a", created=1))
    think(made)
    work = made.assigner.work("default/a")
    assert work is not None
    made.assigner.begins("default/a", work[1])
    made.assigner.ended("default/a", happened=None)
    if newer:
        made.edit("default/a", labels={"x": "y"})
    else:
        made.assigner.written(Tracked(made.objects["default/a"], b"[{},{}]"))
    assert made.assigner.doubtful("default/a") is not newer


def test_a_refused_write_is_no_doubt() -> None:
    made = world(P)
    made.put(service("a", created=1))
    think(made)
    work = made.assigner.work("default/a")
    assert work is not None
    made.assigner.begins("default/a", work[1])
    made.assigner.ended("default/a", happened=False)
    assert not made.assigner.doubtful("default/a")


def test_an_address_decided_on_is_no_right_when_the_sharer_is_edited_apart_first() -> None:
    made = world(P)
    made.put(service("holder", ports=("TCP/1",), share="k", created=1))
    made.settle()
    made.put(service("friend", ports=("TCP/2",), share="k", created=2))
    think(made)
    made.edit("default/holder", annotations={})
    assert made.assigner.work("default/friend") is None
    made.settle()
    assert (made.ips("holder"), made.ips("friend")) == (("192.0.2.0",), ("192.0.2.1",))


@pytest.mark.parametrize("change", ["type", "address"])
def test_a_decision_is_not_written_with_a_version_that_it_was_not_made_for(change: str) -> None:
    made = world(P)
    made.put(service("a", created=1))
    think(made)
    if change == "type":
        made.edit("default/a", type="ClusterIP")
    else:
        asking(made, "a", "192.0.2.2")
    assert made.assigner.work("default/a") is None
    made.settle()
    assert made.ips("a") == (() if change == "type" else ("192.0.2.2",))
    assert len(made.writes) == (change == "address")


def test_a_sharer_that_leaves_holds_no_sharer_up() -> None:
    made = world(P)
    for i, name in enumerate(("stays", "leaves")):
        made.put(service(name, ports=(f"TCP/{i + 1}",), share="k", created=i))
    made.settle()
    asking(made, "leaves", "192.0.2.3")
    made.put(service("comes", ports=("TCP/3",), share="k", created=3))
    made.put(service("same", ports=("TCP/2",), share="k", created=4))  # the port of the one that leaves
    think(made)
    assert waits(made, "same")
    write(made, "comes")
    assert made.ips("comes") == made.ips("leaves") == ("192.0.2.0",)
    write(made, "leaves")
    write(made, "same")
    assert made.ips("same") == ("192.0.2.0",)


def test_a_status_from_outside_the_pools_is_remembered_whatever_the_type() -> None:
    """The pools may come to cover it."""
    made = world(P)
    made.put(service("odd", type="ClusterIP", status=("203.0.113.1",), created=1))
    made.settle()
    made.configure(P, pool("q", "203.0.113.1/32"))
    made.put(service("web", addresses="203.0.113.1", created=2))
    think(made)
    assert waits(made, "web")
    made.settle()
    assert (made.ips("odd"), made.ips("web")) == ((), ("203.0.113.1",))


def test_what_we_gave_to_a_service_of_another_class_does_not_stay_when_it_is_somebody_elses() -> None:
    """The class changed, by way of another type, before the status was cleared, and the address is given on."""
    made = world(pool("one", "192.0.2.1/32"), rules=Rules())
    made.put(service("old", created=1))
    made.settle()
    made.put(service("new", created=2))
    made.edit("default/old", type="ClusterIP")
    think(made)
    made.edit("default/old", type="LoadBalancer", load_balancer_class="example.com/other")
    think(made)
    assert waits(made, "new")
    made.settle()
    assert (made.ips("old"), made.ips("new")) == ((), ("192.0.2.1",))


def test_what_others_gave_to_a_service_of_their_class_holds_nobody_up() -> None:
    made = world(pool("one", "192.0.2.1/32"), rules=Rules())
    made.put(service("ours", created=1))
    think(made)
    made.put(service("theirs", created=2, load_balancer_class="example.com/other", status=("192.0.2.1",)))
    made.settle()
    made.edit("default/theirs", labels={"a": "b"})
    made.settle()
    assert made.ips("ours") == made.ips("theirs") == ("192.0.2.1",)
    (told,) = made.said("theirs")
    assert told.startswith('DuplicateAddress: ["192.0.2.1"] has another owner, and somebody else')


def test_nobody_waits_any_longer_for_one_that_turns_out_not_to_be_ours() -> None:
    made = world(pool("one", "192.0.2.1/32"), rules=Rules())
    made.put(service("ours", created=1))
    think(made)
    made.put(service("theirs", created=2, load_balancer_class="example.com/other", status=("192.0.2.1",)))
    assert waits(made, "ours")  # not known yet whose the other is
    think(made)
    assert "default/ours" in made.todo
    write(made, "ours")


@pytest.mark.parametrize("backwards", [True, False])
def test_a_long_row_costs_no_more_than_its_length(backwards: bool) -> None:
    """400 Services, each of which gets the address of the next one, and the last one that of the first."""
    made = world(pool("p", "10.0.0.0/22"))
    count = 400
    for i in range(count):
        made.put(service(f"s{i:03}", created=i))
    made.settle()
    asking(made, "s000", "10.0.3.255")
    think(made)
    for i in range(count - 1, 0, -1):
        asking(made, f"s{i:03}", f"10.0.{(i + 1) % count >> 8}.{(i + 1) % count & 255}")
        think(made)
    asking(made, "s000", "10.0.0.1")
    think(made)
    made.todo = dict.fromkeys(sorted(made.todo, reverse=backwards))
    writes, looks, blockers = len(made.writes), 0, made.assigner._blockers

    def counted(key: str) -> Any:
        nonlocal looks
        looks += 1
        return blockers(key)

    made.assigner._blockers = counted  # type: ignore[method-assign]
    made.settle()
    assert len(made.writes) - writes == count + 1
    assert looks <= 8 * count
    for i in range(count):
        assert made.ips(f"s{i:03}") == (f"10.0.{(i + 1) % count >> 8}.{(i + 1) % count & 255}",)
