"""Who may announce what: tables over a small cluster, and the engine against deciding everything at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from metallb_common.config.model import Config, Layer2Advertisement
from metallb_common.kube.views import Service
from metallb_speaker.cluster.eligible import EXCLUDE_LABEL
from metallb_speaker.cluster.leases import STALE, Renewals
from metallb_speaker.cluster.members import members
from metallb_speaker.cluster.steady import LINGER, SETTLE, TOGETHER, Steadiness
from metallb_speaker.cluster.verdict import Context, judge
from metallb_speaker.cluster.view import (
    Changes,
    NodeSink,
    PodSink,
    SliceNodes,
)
from metallb_speaker.desired import AnnouncedAddress, Layer2Group, Member
from tests.unit.decide_lab import (
    BGP,
    CONFIG,
    CORDONED,
    L2,
    LOCAL,
    NO_NETWORK,
    NOT_READY,
    Clock,
    groups,
    node,
    pod,
    selector,
    service,
    slices,
    view,
)


def test_a_service_with_an_address_in_a_pool() -> None:
    assert groups(view(service("a", "192.0.2.1"))) == {
        "192.0.2.1": Layer2Group(
            "192.0.2.1", (AnnouncedAddress("192.0.2.1", ("ns/a",), "l2"),), candidates=("n1", "n2", "n3")
        )
    }


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (service("a"), "noIPAllocated"),
        (service("a", "203.0.113.1"), "ipNotAllowed"),
        (service("a", "nonsense"), "invalidIP"),
        (service("b", "192.0.2.1"), "noEndpoints"),
        (service("b", "192.0.2.1", **LOCAL), "noEndpoints"),
    ],
)
def test_reasons(made: Service, reason: str) -> None:
    seen = view(made)
    if made.name == "b":
        seen.slices = {}
    assert judge(Context(CONFIG, seen), made).reason == reason


@pytest.mark.parametrize(
    ("ready", "draining", "policy", "candidates", "reason"),
    [
        ("n1 n2", "", {}, ("n1", "n2", "n3"), ""),
        ("n2", "", LOCAL, ("n2",), ""),
        ("n2", "n1", LOCAL, ("n2",), ""),
        ("", "n1", LOCAL, ("n1",), ""),  # nothing is ready: what serves while it terminates
        ("", "n1", {}, ("n1", "n2", "n3"), ""),
        ("", "", LOCAL, (), "noEndpoints"),
        (" ", "", {}, (), "noEndpoints"),
        ("gone", "", LOCAL, (), "noLocalEndpoints"),  # an endpoint on a node without a speaker
        ("gone", "", {}, ("n1", "n2", "n3"), ""),
    ],
)
def test_endpoints(ready: str, draining: str, policy: dict[str, str], candidates: tuple[str, ...], reason: str) -> None:
    made = view(service("a", "192.0.2.1", **policy))
    made.slices = {"ns/a": slices("a", ready, draining)}
    group = groups(made)["192.0.2.1"]
    assert (group.candidates, group.reason) == (candidates, reason)


def test_an_endpoint_without_a_node_counts_for_cluster_only() -> None:
    made = view(service("a", "192.0.2.1"), service("b", "192.0.2.2", **LOCAL))
    for name in "ab":
        made.slices[f"ns/{name}"] = {"s": SliceNodes(f"ns/{name}", "s", frozenset({""}), frozenset())}
    assert groups(made)["192.0.2.1"].candidates == ("n1", "n2", "n3")
    assert groups(made)["192.0.2.2"].reason == "noLocalEndpoints"


@pytest.mark.parametrize(
    ("states", "policy", "candidates", "fallback"),
    [
        (({}, {}, {}), {}, "n1 n2 n3", ""),
        ((NOT_READY, {}, {}), {}, "n2 n3", "n1"),
        ((NO_NETWORK, {}, CORDONED), {}, "n2", "n3"),
        ((NOT_READY, NOT_READY, CORDONED), {}, "n3", "n1 n2"),
        ((NOT_READY, NOT_READY, NOT_READY), {}, "n1 n2 n3", ""),
        ((CORDONED, CORDONED, CORDONED), {}, "n1 n2 n3", ""),
        ((CORDONED, {}, {}), LOCAL, "n1 n2 n3", ""),  # its endpoints are there
        ((NOT_READY, {}, {}), LOCAL, "n2 n3", "n1"),
    ],
)
def test_node_conditions(states: Any, policy: dict[str, str], candidates: str, fallback: str) -> None:
    nodes = [node(f"n{i}", **state) for i, state in enumerate(states, 1)]
    group = groups(view(service("a", "192.0.2.1", **policy), nodes=nodes))["192.0.2.1"]
    assert (group.candidates, group.fallback) == (tuple(candidates.split()), tuple(fallback.split()))


def test_a_node_that_comes_back_ready_waits_ten_seconds() -> None:
    clock = Clock()
    made = view(service("a", "192.0.2.1"), service("b", "192.0.2.2", **LOCAL), steady=Steadiness(clock))
    sink = NodeSink(made, Changes())

    def tiers() -> set[tuple[str, str]]:
        return {(" ".join(g.candidates), " ".join(g.fallback)) for g in groups(made).values()}

    sink.replace(list(made.nodes.values()))
    assert tiers() == {("n1 n2 n3", "")}, "what is Ready at the first look is taken as it is"
    sink.upsert(node("n2", **NOT_READY))
    assert tiers() == {("n1 n3", "n2")}
    sink.upsert(node("n2"))
    assert tiers() == {("n1 n3", "n2")}, "not yet"
    clock.now += SETTLE - 0.1
    assert not made.steady.expire()
    sink.upsert(node("n2", **NO_NETWORK))
    sink.upsert(node("n2"))
    clock.now += 0.2
    assert not made.steady.expire(), "it has not been well for all that time"
    clock.now += SETTLE
    assert made.steady.expire()
    assert tiers() == {("n1 n2 n3", "")}
    assert not made.steady.expire()


def test_of_nodes_that_were_all_not_ready_the_first_one_back_does_not_get_everything() -> None:
    clock = Clock()
    nodes = [node(f"n{i}", **NOT_READY) for i in (1, 2, 3)]
    made = view(service("a", "192.0.2.1"), nodes=nodes, steady=Steadiness(clock))
    sink = NodeSink(made, Changes())
    for name in ("n1", "n2"):
        sink.upsert(node(name))
        assert groups(made)["192.0.2.1"].candidates == ("n1", "n2", "n3")
        clock.now += 3
    clock.now += SETTLE
    assert made.steady.expire()
    group = groups(made)["192.0.2.1"]
    assert (group.candidates, group.fallback) == (("n1", "n2"), ("n3",))
    sink.upsert(node("n3"))
    sink.delete(node("n3"))
    sink.upsert(node("n3"))
    assert made.steady.returning == {}, "a node that was made anew is another one"


def test_a_node_that_is_not_ready_comes_after_the_cordoned_ones_and_is_not_forgotten() -> None:
    nodes = [node("n1"), node("n2", **CORDONED), node("n3", **NOT_READY)]
    (group,) = groups(view(service("a", "192.0.2.1"), nodes=nodes)).values()
    assert (group.candidates, group.fallback, group.last) == (("n1",), ("n2",), ("n3",))
    (group,) = groups(view(service("a", "192.0.2.1"), nodes=nodes[1:])).values()
    assert (group.candidates, group.fallback, group.last) == (("n2",), ("n3",), ())
    # Shared by a Service that does not mind the cordon.
    made = view(service("a", "192.0.2.1"), service("b", "192.0.2.1", **LOCAL), nodes=nodes)
    (group,) = groups(made).values()
    assert (group.candidates, group.fallback, group.last) == (("n1",), ("n2",), ("n3",))


def test_nodes_that_come_back_one_after_the_other_come_forward_together() -> None:
    """Their way to the API server was cut: nothing needs to move at all. (n4, which is well, is in no pool here.)"""
    clock = Clock()
    names = ("n1", "n2", "n3")
    made = view(service("a", "192.0.2.1"), nodes=[node(n) for n in (*names, "n4")], steady=Steadiness(clock))
    assert made.speakers is not None
    del made.speakers["n4"]
    sink = NodeSink(made, Changes())
    for name in names:
        sink.upsert(node(name, **NOT_READY))
    for name in names:
        sink.upsert(node(name))
        clock.now += SETTLE - 1
        assert not made.steady.expire()
        assert groups(made)["192.0.2.1"].candidates == names
    clock.now += 1
    assert made.steady.expire()
    assert (groups(made)["192.0.2.1"].candidates, groups(made)["192.0.2.1"].fallback) == (names, ())


def test_a_node_does_not_wait_for_ever_for_one_that_comes_and_goes() -> None:
    clock = Clock()
    made = view(service("a", "192.0.2.1"), nodes=[node("n1", **NOT_READY), node("n2", **NOT_READY)])
    made.steady = Steadiness(clock)
    sink = NodeSink(made, Changes())
    sink.upsert(node("n1"))
    began = clock.now
    while groups(made)["192.0.2.1"].candidates != ("n1",):
        clock.now += 4
        sink.upsert(node("n2", **NOT_READY))
        clock.now += 4
        sink.upsert(node("n2"))
        made.steady.expire()
    assert clock.now - began <= SETTLE + TOGETHER + 4


def test_an_even_spread_is_over_all_nodes_of_the_pool_whatever_their_state() -> None:
    config = replace(CONFIG, pools=(replace(L2, l2_spread="even"), BGP))
    clock = Clock()
    nodes = [node("n1"), node("n2", **CORDONED), node("n3")]
    made = view(service("a", "192.0.2.1"), service("b", "192.0.2.2", **LOCAL), nodes=nodes, steady=Steadiness(clock))
    made.slices["ns/b"] = slices("b", "n3")
    found = groups(made, config)
    assert found["192.0.2.1"].spread == found["192.0.2.2"].spread == ("n1", "n2", "n3")
    assert (found["192.0.2.1"].candidates, found["192.0.2.2"].candidates) == (("n1", "n3"), ("n3",))
    assert groups(made)["192.0.2.1"].spread == (), "only where it is asked for"

    pods = PodSink(made, Changes())
    pods.replace([pod("n1"), pod("n2"), pod("n3")])
    pods.replace([pod("n1"), pod("n2")])
    found = groups(made, config)
    assert found["192.0.2.1"].spread == ("n1", "n2", "n3"), "its pod is being replaced, and is soon back"
    assert found["192.0.2.1"].candidates == ("n1",)
    clock.now += LINGER + 1
    assert made.steady.expire()
    assert groups(made, config)["192.0.2.1"].spread == ("n1", "n2")
    pods.replace([pod("n1"), pod("n2"), pod("n3")])
    assert groups(made, config)["192.0.2.1"].spread == ("n1", "n2", "n3")
    assert made.steady.lingering == {}


def test_an_even_spread_keeps_to_the_nodes_that_the_pool_selects() -> None:
    advertisement = Layer2Advertisement(node_selectors=(selector("kubernetes.io/hostname", "n2"),))
    config = replace(CONFIG, pools=(replace(L2, l2_spread="even", l2_advertisements=(advertisement,)), BGP))
    assert groups(view(service("a", "192.0.2.1")), config)["192.0.2.1"].spread == ("n2",)


def test_leases_that_are_not_renewed_are_stale_but_not_while_nobody_renews() -> None:
    renewals, now = Renewals(), 100.0
    beat = dict.fromkeys(("n1", "n2", "n3"), "0")
    assert renewals.note(beat, now) == frozenset()
    for step in range(1, 7):
        now += 5
        beat |= {"n1": f"{step}", "n2": f"{step}"}
        assert renewals.note(beat, now) == (frozenset({"n3"}) if step * 5 > STALE else frozenset())
    # The API server is down, or nobody reaches it: nothing is known, so nobody becomes stale.
    assert renewals.note(beat, now + 1000) == frozenset({"n3"})
    # It is back, and each renews in its turn: who was dead before stays dead, and nobody else is.
    now += 1001
    assert renewals.note(beat | {"n1": "8"}, now) == frozenset({"n3"})
    assert renewals.note(beat | {"n1": "8", "n2": "8"}, now + 9) == frozenset({"n3"})
    assert renewals.note({"n1": "9", "n2": "8", "n3": "1"}, now + 10) == frozenset()
    assert renewals.note({"n1": "9"}, now + 20) == frozenset(), "nodes that are gone"


def test_a_node_whose_lease_is_stale_is_not_alive_for_the_fallback() -> None:
    made = view(stale=frozenset({"n2"}))
    assert {m.key: m.alive for m in members(made)} == {"n1": True, "n2": False, "n3": True}
    made.speakers = None
    assert {m.key: m.alive for m in members(made)} == {"n1": True, "n2": False, "n3": True}
    assert groups(view(service("a", "192.0.2.1"), stale=frozenset({"n2"})))["192.0.2.1"].candidates == (
        "n1",
        "n2",
        "n3",
    )


def test_the_exclude_label_is_honoured_only_when_asked_for() -> None:
    nodes = [node("n1", labels={EXCLUDE_LABEL: ""}), node("n2")]
    made = view(service("a", "192.0.2.1"), nodes=nodes, ready="n1 n2")
    assert groups(made)["192.0.2.1"].candidates == ("n1", "n2")
    made.ignore_exclude_label = False
    assert groups(made)["192.0.2.1"].candidates == ("n2",)


def test_only_nodes_with_a_speaker() -> None:
    made = view(service("a", "192.0.2.1"))
    made.speakers = {"n2": pod("n2"), "elsewhere": pod("elsewhere")}
    assert groups(made)["192.0.2.1"].candidates == ("n2",)
    made.speakers = None
    assert groups(made)["192.0.2.1"].candidates == ("n1", "n2", "n3")


def test_dual_stack_is_one_group_on_the_first_address() -> None:
    made = groups(view(service("a", "2001:db8::1", "192.0.2.1")))
    assert list(made) == ["2001:db8::1"]
    assert [a.ip for a in made["2001:db8::1"].addresses] == ["192.0.2.1", "2001:db8::1"]


def test_shared_addresses_are_one_group() -> None:
    made = view(
        service("a", "192.0.2.1", "2001:db8::1"),
        service("b", "192.0.2.1", "2001:db8::2"),
        service("c", "2001:db8::2"),
        service("d", "192.0.2.9"),
    )
    found = groups(made)
    assert list(found) == ["192.0.2.1", "192.0.2.9"]
    assert found["192.0.2.1"].addresses == (
        AnnouncedAddress("192.0.2.1", ("ns/a", "ns/b"), "l2"),
        AnnouncedAddress("2001:db8::1", ("ns/a",), "l2"),
        AnnouncedAddress("2001:db8::2", ("ns/b", "ns/c"), "l2"),
    )


def test_a_sharer_without_endpoints_neither_holds_nor_withdraws() -> None:
    made = view(service("a", "192.0.2.1"), service("b", "192.0.2.1", "2001:db8::1"))
    del made.slices["ns/b"]
    assert groups(made)["192.0.2.1"].addresses == (AnnouncedAddress("192.0.2.1", ("ns/a",), "l2"),)


def test_sharers_with_endpoints_on_different_nodes_meet_where_both_can() -> None:
    made = view(service("a", "192.0.2.1", **LOCAL), service("b", "192.0.2.1", **LOCAL))
    made.slices = {"ns/a": slices("a", "n1 n2"), "ns/b": slices("b", "n2 n3")}
    assert groups(made)["192.0.2.1"].candidates == ("n2",)
    made.slices = {"ns/a": slices("a", "n1"), "ns/b": slices("b", "n3")}
    assert groups(made)["192.0.2.1"].candidates == ("n1",)  # nowhere: where the first one can


def test_the_annotation_prefers_a_node() -> None:
    made = service("a", "192.0.2.1", annotations={"metallb.io/announce-from-node": "n3"})
    assert groups(view(made))["192.0.2.1"].preferred == "n3"
    made = service("a", "192.0.2.1", annotations={"metallb.universe.tf/announce-from-node": "n2"})
    assert groups(view(made))["192.0.2.1"].preferred == "n2"


def test_advertisements_choose_nodes_and_interfaces() -> None:
    one = Layer2Advertisement((selector("kubernetes.io/hostname", "n1"),), ("eth0", "bond*"), ("eth9",))
    two = Layer2Advertisement((selector("kubernetes.io/hostname", "n2"),), (), (), (selector("tier", "web"),))
    config = Config(pools=(replace(L2, l2_advertisements=(one, two)),))
    plain, web = service("a", "192.0.2.1"), service("w", "192.0.2.2", labels={"tier": "web"})
    found = groups(view(plain, web), config)
    assert found["192.0.2.1"].candidates == ("n1",)
    assert found["192.0.2.1"].interfaces == ("bond*", "eth0")
    assert found["192.0.2.1"].exclude_interfaces == ("eth9",)
    assert found["192.0.2.2"].candidates == ("n1", "n2")
    only_web = Config(pools=(replace(L2, l2_advertisements=(two,)),))
    assert groups(view(plain), only_web)["192.0.2.1"].reason == "notOwner"


def test_members() -> None:
    made = view(nodes=[node("n1"), node("n2", ready=False), node("n3")])
    assert made.speakers is not None
    made.speakers["n3"] = pod("n3", ready=False, addresses=("fd00::3",))
    assert members(made) == [
        Member("n1", ("10.0.0.1",), True),
        Member("n2", ("10.0.0.2",), False),
        Member("n3", ("fd00::3", "10.0.0.3"), False),
    ]
    made.speakers = None
    assert members(made)[1] == Member("n2", ("10.0.0.2",), False)


@pytest.mark.parametrize("text", ["worker-1.example.org", "", "10.9.0.1/24", "fe80::1%eth0", "10.9.0.01"])
def test_what_is_no_address_is_left_out_and_the_others_are_as_sockets_write_them(text: str) -> None:
    made = view(nodes=[node("n1"), node("n2", internal_ips=(text, "FD00:0::2", "10.0.0.2"))])
    assert members(made)[1] == Member("n2", ("10.0.0.2", "fd00::2"), True), "the pod's first"
    made.speakers = None
    assert members(made)[1] == Member("n2", ("fd00::2", "10.0.0.2"), True)
