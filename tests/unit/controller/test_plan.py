"""What a Service gets, keeps and loses: the rules of contract sections 1, 8 and 9 as outcomes."""

from __future__ import annotations

import dataclasses

from metallb_controller.assigner import Assigner
from metallb_controller.tracked import Tracked
from metallb_controller.wishes import FROM_POOL
from tests.unit.controller.make import World, pool, service, world

P = pool("p", "192.0.2.0/30")
DUAL = pool("d", "198.51.100.0/30", "2001:db8::/126")


def got(made: World, **asked: object) -> tuple[str, ...]:
    made.put(service(**asked))  # type: ignore[arg-type]
    made.settle()
    return made.ips("web")


def test_priority_then_name_then_lowest() -> None:
    made = world(
        pool("a", "192.0.2.1/32"), pool("b", "192.0.2.2/32", priority=7), pool("c", "192.0.2.3/32", priority=7)
    )
    for i, expected in enumerate(["192.0.2.2", "192.0.2.3", "192.0.2.1"]):
        made.put(service(f"s{i}"))
        made.settle()
        assert made.ips(f"s{i}") == (expected,)


def test_the_pool_is_told_in_an_annotation() -> None:
    made = world(P)
    got(made)
    assert made.objects["default/web"].annotations[FROM_POOL] == "p"


def test_auto_assign_false_gives_only_when_asked() -> None:
    made = world(pool("p", "192.0.2.0/30", auto_assign=False))
    assert got(made) == ()
    made.edit("default/web", annotations={"metallb.io/address-pool": "p"})
    made.settle()
    assert made.ips("web") == ("192.0.2.0",)


def test_requested_address_beats_the_pool_annotation() -> None:
    made = world(P, pool("q", "203.0.113.0/30"))
    assert got(made, pool="p", addresses="203.0.113.2") == ("203.0.113.2",)
    writes = len(made.writes)
    for _ in range(3):  # and is not given again at every look
        made.edit("default/web", labels={"n": "1"})
        made.settle()
    assert len(made.writes) == writes
    assert len(made.said("web")) == 1


def test_avoid_buggy_ips_and_exclusions() -> None:
    made = world(pool("p", "192.0.2.254-192.0.3.2", avoid_buggy_ips=True, exclude=("192.0.3.1/32",)))
    seen = []
    for i in range(3):
        made.put(service(f"s{i}"))
        made.settle()
        seen.append(made.ips(f"s{i}"))
    assert seen == [("192.0.2.254",), ("192.0.3.2",), ()]


def test_an_infeasible_wish_takes_nothing_away() -> None:
    wishes = (
        {"annotations": {"metallb.io/address-pool": "gone"}},
        {"annotations": {"metallb.io/loadBalancerIPs": "203.0.113.1"}},
        {"annotations": {"metallb.io/loadBalancerIPs": "nonsense"}},
        {"annotations": {"metallb.io/loadBalancerIPs": "192.0.2.1"}},  # somebody else's
        {"annotations": {"metallb.io/address-pool": "p", "metallb.universe.tf/address-pool": "d"}},
        {"annotations": {"metallb.io/address-pool": "full"}},
        {"load_balancer_ip": "2001:db8::1"},
    )
    for wish in wishes:
        made = world(P, pool("full", "203.0.113.9/32", auto_assign=False))
        assert got(made) == ("192.0.2.0",)
        made.put(service("other"))
        made.put(service("filler", pool="full"))
        made.settle()
        made.edit("default/web", **wish)
        made.settle()
        assert made.ips("web") == ("192.0.2.0",), wish
        assert made.said("web")[-1].split(":")[0] in ("AllocationFailed", "LoadBalancerFailed"), wish


def test_a_feasible_wish_moves_the_service() -> None:
    made = world(P, pool("q", "203.0.113.0/30"))
    assert got(made) == ("192.0.2.0",)
    made.edit("default/web", annotations={"metallb.io/address-pool": "q"})
    made.settle()
    assert made.ips("web") == ("203.0.113.0",)
    made.edit("default/web", annotations={"metallb.io/loadBalancerIPs": "192.0.2.3"})
    made.settle()
    assert made.ips("web") == ("192.0.2.3",)
    assert [t.split(":")[0] for t in made.said("web")] == ["IPAllocated"] * 3


def test_renaming_a_pool_keeps_every_address() -> None:
    made = world(P)
    assert got(made, pool="p") == ("192.0.2.0",)
    made.configure(dataclasses.replace(P, name="renamed"))
    made.settle()
    assert made.ips("web") == ("192.0.2.0",)
    assert made.objects["default/web"].annotations[FROM_POOL] == "renamed"
    assert made.said("web")[-1] == 'AllocationFailed: Failed to allocate IP for "default/web": unknown pool "p"'


def test_freeing_by_any_means_wakes_the_waiting() -> None:
    one = pool("p", "192.0.2.0/32")
    for free in ("delete", "type", "pool"):
        made = world(one, pool("q", "203.0.113.0/32", auto_assign=False))
        assert got(made) == ("192.0.2.0",)
        made.put(service("late"))
        made.settle()
        assert made.ips("late") == ()
        if free == "delete":
            made.remove("default/web")
        elif free == "type":
            made.edit("default/web", type="ClusterIP")
        else:
            made.edit("default/web", annotations={"metallb.io/address-pool": "q"})
        made.settle()
        assert made.ips("late") == ("192.0.2.0",), free


def test_the_oldest_waiting_service_comes_first() -> None:
    made = world(pool("p", "192.0.2.0/32"))
    got(made)
    for name, created in (("young", 50), ("old", 10), ("middle", 30)):
        made.put(service(name, created=created))
    made.settle()
    made.remove("default/web")
    made.settle()
    assert [made.ips(n) for n in ("old", "middle", "young")] == [("192.0.2.0",), (), ()]


def test_type_change_releases_and_clears() -> None:
    made = world(P)
    got(made)
    made.edit("default/web", type="ClusterIP")
    made.settle()
    assert made.ips("web") == ()
    assert made.objects["default/web"].annotations == {}
    assert made.assigner.allocator.in_use("p") == 0
    assert made.said("web")[-1] == 'ClearAssignment: Released IP ["192.0.2.0"]: notLoadBalancer'


def test_no_cluster_ip_clears() -> None:
    made = world(P)
    got(made)
    for headless in ((), ("None",)):
        made.edit("default/web", cluster_ips=headless)
        made.settle()
        assert made.ips("web") == ()


def test_a_deleted_service_keeps_its_address_while_it_terminates() -> None:
    made = world(P)
    got(made)
    made.edit("default/web", deleting=True)
    made.settle()
    assert made.ips("web") == ("192.0.2.0",)
    made.put(service("dying", deleting=True))
    made.settle()
    assert made.ips("dying") == ()


# --- sharing ---------------------------------------------------------------------------------------


def test_equal_keys_share_when_ports_differ() -> None:
    made = world(P)
    for name, port in (("a", "TCP/80"), ("b", "UDP/80"), ("c", "TCP/80")):
        made.put(service(name, share="k", ports=(port,)))
        made.settle()
    assert [made.ips(n) for n in "abc"] == [("192.0.2.0",), ("192.0.2.0",), ("192.0.2.1",)]
    assert made.assigner.allocator.in_use("p") == 2


def test_local_traffic_shares_only_among_equal_selectors() -> None:
    made = world(P)
    local = {"share": "k", "external_traffic_policy": "Local"}
    for name, port, selector in (("a", "TCP/1", "x"), ("b", "TCP/2", "x"), ("c", "TCP/3", "y")):
        made.put(service(name, ports=(port,), selector=(("app", selector),), **local))
        made.settle()
    assert [made.ips(n) for n in "abc"] == [("192.0.2.0",), ("192.0.2.0",), ("192.0.2.1",)]


def test_a_sole_owner_may_change_its_key() -> None:
    made = world(P)
    got(made, share="a")
    made.edit("default/web", annotations={"metallb.io/allow-shared-ip": "b"})
    made.settle()
    made.put(service("friend", share="b", ports=("TCP/81",)))
    made.settle()
    assert made.ips("friend") == made.ips("web") == ("192.0.2.0",)


def test_a_sharer_turned_local_keeps_its_address() -> None:
    made = world(P)
    for name, port in (("a", "TCP/1"), ("b", "TCP/2")):
        made.put(service(name, share="k", ports=(port,)))
    made.settle()
    made.edit("default/b", external_traffic_policy="Local")
    made.settle()
    assert made.ips("a") == made.ips("b") == ("192.0.2.0",)
    assert "can't change sharing key" in made.said("b")[-1]
    made.restart()
    made.settle()
    assert made.ips("a") == made.ips("b") == ("192.0.2.0",)


def test_sharers_move_to_a_new_key_one_by_one() -> None:
    made = world(P)
    names = {"a": "TCP/1", "b": "TCP/2", "c": "TCP/3"}
    for name, port in names.items():
        made.put(service(name, share="old", ports=(port,)))
    made.settle()
    for name in names:
        made.edit(f"default/{name}", annotations={"metallb.io/allow-shared-ip": "new"})
        made.settle()
    assert {made.ips(n) for n in names} == {("192.0.2.0",)}
    made.put(service("d", share="new", ports=("TCP/4",)))
    made.settle()
    assert made.ips("d") == ("192.0.2.0",)
    assert not made.assigner.waiting


def test_a_service_without_ports_is_not_robbed() -> None:
    made = world(P)
    got(made, ports=())
    made.put(service("thief", share="k", addresses="192.0.2.0"))
    made.settle()
    assert made.ips("thief") == ()
    assert made.ips("web") == ("192.0.2.0",)


# --- start, config, repair -------------------------------------------------------------------------


def test_nothing_is_given_before_everything_is_seen() -> None:
    made = World()
    made.configure(P)
    made.put(service("new", created=1))
    made.settle()
    assert made.ips("new") == ()
    made.objects["default/old"] = service("old", created=2, status=("192.0.2.0",))
    made.sync()
    made.settle()
    assert made.ips("new") == ("192.0.2.1",)
    assert made.ips("old") == ("192.0.2.0",)


def test_a_restart_changes_nothing() -> None:
    made = world(P, DUAL)
    for i in range(3):
        made.put(service(f"s{i}", created=i))
    made.put(service("two", families="46", policy="RequireDualStack"))
    made.settle()
    before = {k: v.ingress_ips for k, v in made.objects.items()}
    writes, events = len(made.writes), len(made.events)
    made.restart()
    made.settle()
    assert {k: v.ingress_ips for k, v in made.objects.items()} == before
    assert (len(made.writes), len(made.events)) == (writes, events)


def test_of_two_owners_the_younger_loses_with_an_event() -> None:
    made = World()
    made.put(service("young", created=9, status=("192.0.2.0",)))
    made.put(service("old", created=1, status=("192.0.2.0",)))
    made.sync()
    made.configure(P)
    made.settle()
    assert made.ips("old") == ("192.0.2.0",)
    assert made.ips("young") == ("192.0.2.1",)
    first, second = made.said("young")
    assert first.startswith('DuplicateAddress: ["192.0.2.0"] is taken back')
    assert second == 'IPAllocated: Assigned IP ["192.0.2.1"]'


def test_a_second_owner_that_appears_later_loses() -> None:
    made = world(P)
    got(made, created=9)
    made.put(service("intruder", created=1, status=("192.0.2.0",)))
    made.settle()
    assert made.ips("web") == ("192.0.2.0",)
    assert made.ips("intruder") == ("192.0.2.1",)
    assert made.said("intruder")[0].startswith("DuplicateAddress")


def test_a_status_that_somebody_else_changed_is_repaired() -> None:
    made = world(P)
    got(made)
    for foreign in ((), ("203.0.113.1",), ("192.0.2.0", "203.0.113.1")):
        made.edit("default/web", ingress_ips=foreign)
        made.settle()
        assert made.ips("web") == ("192.0.2.0",)


def test_reallocate_moves_only_what_is_not_covered() -> None:
    made = world(P)
    for i in range(4):
        made.put(service(f"s{i}", created=i))
    made.settle()
    made.configure(pool("p", "192.0.2.0/31", "203.0.113.0/24"))
    made.settle()
    assert [made.ips(f"s{i}")[0] for i in range(4)] == ["192.0.2.0", "192.0.2.1", "203.0.113.0", "203.0.113.1"]


def test_the_order_in_which_a_list_arrives_does_not_matter() -> None:
    names = [f"s{i}" for i in range(4)]
    seen = set()
    for order in (names, names[::-1], names[2:] + names[:2]):
        made = World()
        made.configure(P)
        made.objects = {f"default/{n}": service(n, created=5) for n in order}
        made.sync()
        made.settle()
        seen.add(tuple(made.ips(n) for n in names))
    assert len(seen) == 1


def test_an_object_made_anew_under_the_same_name_is_another_one() -> None:
    made = world(P)
    got(made, created=1)
    made.put(service("other"))
    made.settle()
    made.put(service(created=2, addresses="192.0.2.3"))  # its deletion was never seen
    made.settle()
    assert made.ips("web") == ("192.0.2.3",)
    assert made.assigner.allocator.in_use("p") == 2


def test_an_old_view_never_replaces_a_new_one() -> None:
    made = world(P)
    old = service()
    made.put(old)
    made.settle()
    made.assigner.upsert(Tracked(dataclasses.replace(old, resource_version="1"), b"[{},{}]"))
    made.settle()
    assert made.assigner.services["default/web"].view.ingress_ips == ("192.0.2.0",)
    assert isinstance(made.assigner, Assigner)


def test_a_pool_that_leaves_the_config_leaves_the_table() -> None:
    made = world(P, DUAL)
    made.configure(P)
    assert list(made.assigner.allocator.table.by_name) == ["p"]
