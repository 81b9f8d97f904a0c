"""Who is planned when: the oldest first, among whatever has come, in slices that do not block the loop."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from metallb_common.config.model import ServiceAllocation
from metallb_common.net.ranges import Address
from metallb_common.net.selectors import LabelSelector, Requirement
from metallb_controller.agenda import Agenda
from metallb_controller.allocator import Allocator, Refusal, Wish
from metallb_controller.sharing import Allocation
from tests.unit.controller.make import pool, service, world


def plans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every search for an address from now on, by who it is for."""
    found: list[str] = []
    search = Allocator.find

    def counted(self: Allocator, wish: Wish, *keep: Iterable[Address]) -> Allocation | Refusal:
        found.append(wish.key)
        return search(self, wish, *keep)

    monkeypatch.setattr(Allocator, "find", counted)
    return found


@pytest.mark.parametrize("count", [90, 150, 420])
@pytest.mark.parametrize("limit", [1, 7, 100])
def test_the_order_of_equal_events_decides_nothing_however_many_there_are(count: int, limit: int) -> None:
    """Also when there are more than are planned in one go, and more than there are addresses."""
    answers: list[dict[str, tuple[Address, ...]]] = []
    for seed in range(4):
        made = world(pool("p", "192.0.2.0/26"), pool("q", "198.51.100.0/26", "2001:db8::/122"))
        order = list(range(count))
        Random(seed).shuffle(order)
        for i in order:
            families, policy = ("46", "PreferDualStack") if i % 3 == 1 else ("4", "SingleStack")
            share = "k" if i % 5 == 2 else ""
            ports = (f"TCP/{i}",) if i % 2 else ("TCP/80",)
            made.put(service(f"s{i:03}", families=families, policy=policy, share=share, ports=ports, created=i // 100))
        while made.assigner.busy:
            made.assigner.reconcile(limit)
        answers.append({key: held.addresses for key, held in made.assigner.allocator.held.items()})
    assert answers[0]
    assert all(answer == answers[0] for answer in answers)


def test_who_waits_comes_before_who_has_just_come() -> None:
    made = world(pool("p", "192.0.2.0/32"))
    made.put(service("a", created=1))
    made.settle()
    made.put(service("b", created=2))
    made.settle()
    made.remove("default/a")
    made.put(service("c", created=9))
    made.settle()
    assert (made.ips("b"), made.ips("c")) == (("192.0.2.0",), ())


def test_an_older_one_that_waits_comes_first_also_when_the_address_is_freed_by_a_plan() -> None:
    made = world(pool("p", "192.0.2.0/32"), pool("q", "192.0.2.1/32", auto_assign=False))
    made.put(service("a", created=1))
    made.put(service("b", created=2))
    made.settle()
    made.put(service("c", created=3))
    made.edit("default/a", annotations={**made.objects["default/a"].annotations, "metallb.io/address-pool": "q"})
    made.settle()
    assert (made.ips("a"), made.ips("b"), made.ips("c")) == (("192.0.2.1",), ("192.0.2.0",), ())


def test_a_service_made_anew_under_the_same_name_is_as_young_as_it_is() -> None:
    made = world(pool("p", "192.0.2.0/32"))
    made.put(service("a", created=1))
    made.put(service("b", created=2))
    made.remove("default/a")
    made.put(service("a", created=3))
    made.settle()
    assert (made.ips("a"), made.ips("b")) == ((), ("192.0.2.0",))


def test_waking_many_is_done_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holders whose wish cannot be met, each for itself, and an address that none of them gets."""
    made = world(pool("old", "192.0.2.0/24"))
    for i in range(250):
        made.put(service(f"s{i:03}", pool="old", created=i, share=f"k{i}"))
    made.settle()
    made.configure(pool("new", "192.0.2.0/24"))
    made.settle()
    assert len(made.assigner.waiting) == 250
    found = plans(monkeypatch)
    made.remove("default/s249")
    sizes = []
    while made.assigner.busy:
        before = len(found)
        made.assigner.reconcile(100)
        sizes.append(len(found) - before)
    assert sizes == [100, 100, 49]


APPS = LabelSelector((Requirement("app", "Exists"),))


@pytest.mark.parametrize(
    ("rules", "searches"), [(ServiceAllocation(), 2), (ServiceAllocation(service_selectors=(APPS,)), 20)]
)
def test_who_waits_for_the_same_is_refused_once(
    rules: ServiceAllocation, searches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever labels they have, as long as no pool asks for them."""
    made = world(pool("p", "192.0.2.0/30", allocation=rules))
    for i in range(24):
        made.put(service(f"s{i:02}", created=i, labels={"app": f"shop-{i}"}))
    made.settle()
    assert len(made.assigner.waiting) == 20
    found = plans(monkeypatch)
    made.remove("default/s00")
    made.settle()
    assert made.ips("s04") == ("192.0.2.0",)
    assert len(found) == searches  # one that is met, and one refusal or nineteen


def test_holders_that_ask_for_the_same_are_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(pool("old", "192.0.2.0/28"))
    for i in range(10):
        made.put(service(f"s{i}", pool="old", created=i))
    made.settle()
    made.configure(pool("new", "192.0.2.0/28"))
    made.settle()
    assert len(made.assigner.waiting) == 10
    found = plans(monkeypatch)
    made.remove("default/s9")
    made.settle()
    assert found == ["default/s0"]


def test_two_that_lack_different_families_are_not_refused_alike() -> None:
    made = world(pool("p", "192.0.2.0/31", "2001:db8::/128"))
    both = {"families": "46", "policy": "PreferDualStack"}
    for i in range(2):
        made.put(service(f"four{i}", created=i))
    made.put(service("younger", created=4, **both))  # type: ignore[arg-type]
    made.settle()
    made.remove("default/four0")
    made.put(service("older", created=3, **both))  # type: ignore[arg-type]
    made.settle()
    assert (made.ips("older"), made.ips("younger")) == (("192.0.2.0",), ("2001:db8::",))
    made.remove("default/four1")
    made.settle()
    assert made.ips("younger") == ("192.0.2.1", "2001:db8::")


def test_waiting_for_a_write_is_no_work() -> None:
    """A status that does not fit any more, until it is cleared, is not looked at again and again."""
    made = world(pool("p", "192.0.2.0/32", "2001:db8::/126"))
    made.put(service("four", created=1))
    made.put(service("six", families="6", created=2))
    made.put(service("late", created=3))
    made.settle()
    made.edit("default/six", cluster_ips=service(families="4").cluster_ips)
    made.think()
    made.settle()
    assert made.ips("six") == ()
    made.remove("default/four")
    made.settle()
    assert made.ips("six") == ("192.0.2.0",)


def test_the_agenda_forgets_who_is_gone() -> None:
    agenda = Agenda()
    for i in (3, 1, 2):
        agenda.change(service(f"s{i}", created=i))
    agenda.wake(service("s0", created=0))
    agenda.drop("default/s1")
    agenda.change(service("s1", created=9))
    agenda.wake(service("s2", created=2))
    assert agenda
    assert [agenda.pop() for _ in range(5)] == [
        ("default/s0", False),
        ("default/s2", True),
        ("default/s3", True),
        ("default/s1", True),
        None,
    ]
    assert not agenda
