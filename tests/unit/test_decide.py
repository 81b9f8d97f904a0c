"""Who may announce what: tables over a small cluster, and the engine against deciding everything at once."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from metallb_common.config.model import BgpAdvertisement, Community, Config, Layer2Advertisement, Peer, Pool
from metallb_common.kube.views import Node, Service
from metallb_common.net.ranges import AddressRange, from_network
from metallb_common.net.selectors import LabelSelector, Requirement
from metallb_speaker.cluster import decide_bgp, decide_layer2
from metallb_speaker.cluster.eligible import EXCLUDE_LABEL
from metallb_speaker.cluster.engine import Engine
from metallb_speaker.cluster.members import members
from metallb_speaker.cluster.verdict import Context, judge
from metallb_speaker.cluster.view import (
    Changes,
    ClusterView,
    NodeSink,
    NotServed,
    PodSink,
    ServiceSink,
    SliceNodes,
    SliceSink,
    SpeakerPod,
    read_endpoints,
    read_pod,
    read_service,
    read_slice,
)
from metallb_speaker.desired import AnnouncedAddress, Layer2Group, Member
from metallb_speaker.stream import DesiredWriter


def net(text: str) -> AddressRange:
    return from_network(ip_network(text))


def selector(key: str, value: str) -> LabelSelector:
    return LabelSelector((Requirement(key, "In", (value,)),))


L2 = Pool("l2", "layer2", (net("192.0.2.0/24"), net("2001:db8::/64")))
BGP = Pool("bgp", "bgp", (net("198.51.100.0/24"), net("2001:db8:1::/64")), bgp_advertisements=(BgpAdvertisement(),))
CONFIG = Config(pools=(L2, BGP))


def node(name: str, **changes: Any) -> Node:
    return replace(Node(name, {"kubernetes.io/hostname": name}, True, False, False, (f"10.0.0.{name[1:]}",)), **changes)


def pod(on: str, **changes: Any) -> SpeakerPod:
    return replace(SpeakerPod("metallb-system", f"speaker-{on}", on, (f"10.0.0.{on[1:]}",), True, False), **changes)


def service(name: str, *ips: str, **changes: Any) -> Service:
    made = Service.from_json(
        {
            "metadata": {"namespace": "ns", "name": name, "uid": name},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1"},
            "status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in ips]}},
        }
    )
    return replace(made, **changes)


def slices(name: str, ready: str = "", draining: str = "") -> dict[str, SliceNodes]:
    return {name: SliceNodes(f"ns/{name}", name, frozenset(ready.split()), frozenset(draining.split()))}


def view(*services: Service, nodes: list[Node] | None = None, ready: str = "n1 n2 n3", **changes: Any) -> ClusterView:
    found = [node("n1"), node("n2"), node("n3")] if nodes is None else nodes
    made = ClusterView("n1", CONFIG)
    made.nodes = {n.name: n for n in found}
    made.speakers = {n.name: pod(n.name) for n in found}
    made.services = {s.key: s for s in services}
    made.slices = {s.key: slices(s.name, ready) for s in services}
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def groups(made: ClusterView, config: Config = CONFIG) -> dict[str, Layer2Group]:
    return {group.key: group for group in decide_layer2.decide(config, made)}


LOCAL = {"external_traffic_policy": "Local"}


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


NOT_READY, NO_NETWORK, CORDONED = {"ready": False}, {"network_unavailable": True}, {"unschedulable": True}


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


def routes(made: ClusterView, config: Config = CONFIG) -> dict[str, tuple[str, ...]]:
    context = Context(config, made)
    verdicts = {key: judge(context, s) for key, s in made.services.items()}
    return {
        route.prefix: tuple(s for a in route.addresses for s in a.services)
        for route in decide_bgp.decide(config, made, verdicts)
    }


def test_bgp_routes() -> None:
    assert routes(view(service("a", "198.51.100.1", "2001:db8:1::1"))) == {
        "198.51.100.1/32": ("ns/a",),
        "2001:db8:1::1/128": ("ns/a",),
    }
    aggregated = Config(
        pools=(replace(BGP, bgp_advertisements=(BgpAdvertisement(24, 64, 100, (Community((1, 2)),)),)),)
    )
    assert routes(view(service("a", "198.51.100.1"), service("b", "198.51.100.7")), aggregated) == {
        "198.51.100.0/24": ("ns/a", "ns/b")
    }


@pytest.mark.parametrize(
    ("ready", "policy", "announced"),
    [("n2", {}, True), ("n2", LOCAL, False), ("n1", LOCAL, True), ("", {}, False)],
)
def test_bgp_endpoints(ready: str, policy: dict[str, str], announced: bool) -> None:
    assert bool(routes(view(service("a", "198.51.100.1", **policy), ready=ready))) is announced


def test_bgp_nodes() -> None:
    made = service("a", "198.51.100.1")
    assert routes(view(made, nodes=[node("n1", unschedulable=True), node("n2")]))
    assert not routes(view(made, nodes=[node("n1", ready=False), node("n2")]))
    assert routes(view(made, nodes=[node("n1", ready=False), node("n2", ready=False)]))
    chosen = replace(BGP, bgp_advertisements=(BgpAdvertisement(node_selectors=(selector("a", "b"),)),))
    assert not routes(view(made), Config(pools=(chosen,)))
    assert routes(view(made, nodes=[node("n1", labels={"a": "b"})]), Config(pools=(chosen,)))


PEER = Peer("p", 64512, 64513, ip_address("10.9.0.1"))


def test_peers() -> None:
    elsewhere = replace(PEER, name="q", node_selectors=(selector("kubernetes.io/hostname", "n2"),))
    secret = replace(PEER, name="s", password_secret="bgp")
    made = view()
    found, problems = decide_bgp.peers(Config(peers=(PEER, elsewhere, secret)), made)
    assert [p.key for p in found] == ["p"]
    assert problems == ["peer s: no key 'password' in Secret 'bgp'; the session waits for it"]
    made.passwords["bgp", "password"] = "hush"
    found, problems = decide_bgp.peers(Config(peers=(secret,)), made)
    assert (found[0].password, found[0].connect_time, problems) == ("hush", 0, [])


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


def test_reading_objects() -> None:
    meta = {"namespace": "ns", "name": "x"}
    assert read_service({"metadata": meta, "spec": {"type": "ClusterIP"}}) == NotServed("ns/x")
    found = read_slice(
        {
            "metadata": {**meta, "labels": {"kubernetes.io/service-name": "a"}},
            "addressType": "IPv4",
            "endpoints": [
                {"nodeName": "n1", "conditions": {"ready": True}},
                {"nodeName": "n2", "conditions": {"ready": False, "serving": True, "terminating": True}},
                {"nodeName": "n3", "conditions": {"ready": False, "serving": False}},
                {"nodeName": "n4"},
            ],
        }
    )
    assert found == SliceNodes("ns/a", "x", frozenset({"n1", "n4"}), frozenset({"n2"}))
    subsets = [{"addresses": [{"nodeName": "n1"}, {}], "notReadyAddresses": [{"nodeName": "n2"}]}, {}]
    assert read_endpoints({"metadata": meta, "subsets": subsets}).ready == {"n1", ""}
    read = read_pod(
        {
            "metadata": meta,
            "spec": {"nodeName": "n1"},
            "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "conditions": []},
        }
    )
    assert read == SpeakerPod("ns", "x", "n1", ("10.0.0.1", "fd00::1"), False, False)
    assert read_pod({"metadata": meta, "spec": {"nodeName": "n1"}, "status": {"phase": "Failed"}}).node == ""


class Cluster:
    """A view with its sinks, and the engine that follows it."""

    def __init__(self) -> None:
        self.view = ClusterView("n1", CONFIG)
        self.changes = Changes()
        self.writer = DesiredWriter()
        self.engine = Engine(self.view, self.changes, self.writer)
        self.services = ServiceSink(self.view, self.changes)
        self.slices = SliceSink(self.view, self.changes)
        self.nodes = NodeSink(self.view, self.changes)
        self.pods = PodSink(self.view, self.changes)
        self.changes.all()

    def expected(self) -> set[Any]:
        context = Context(CONFIG, self.view)
        verdicts = {key: judge(context, s) for key, s in self.view.services.items()}
        peers, _ = decide_bgp.peers(CONFIG, self.view)
        return {
            *decide_layer2.groups_of(verdicts),
            *decide_bgp.decide(CONFIG, self.view, verdicts),
            *members(self.view),
            *peers,
        }


@pytest.mark.parametrize("seed", range(30))
def test_the_engine_equals_deciding_everything(seed: int) -> None:
    rng = random.Random(seed)
    cluster = Cluster()
    ips = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2", "198.51.100.1", "203.0.113.1"]
    for _ in range(120):
        name = rng.choice("abcdef")
        match rng.randrange(8):
            case 0 | 1 | 2:
                chosen = rng.sample(ips, rng.randrange(3))
                policy = rng.choice(["Local", "Cluster"])
                cluster.services.upsert(service(name, *chosen, external_traffic_policy=policy))
            case 3:
                cluster.services.delete(service(name))
            case 4 | 5:
                nodes = frozenset(rng.sample(["n1", "n2", "n3", ""], rng.randrange(3)))
                cluster.slices.upsert(SliceNodes(f"ns/{name}", name + rng.choice("12"), nodes, frozenset()))
            case 6:
                cluster.slices.delete(SliceNodes(f"ns/{name}", name + rng.choice("12"), frozenset(), frozenset()))
            case 7:
                which = rng.choice(["n1", "n2", "n3"])
                cluster.nodes.upsert(node(which, ready=rng.random() < 0.7, unschedulable=rng.random() < 0.3))
                cluster.pods.upsert(pod(which))
        if rng.random() < 0.5:
            cluster.engine.settle()
            assert set(cluster.writer.items.values()) == cluster.expected()
    assert not cluster.engine.settle() or set(cluster.writer.items.values()) == cluster.expected()


def test_endpoint_churn_costs_what_changed() -> None:
    cluster = Cluster()
    for name in ("n1", "n2", "n3"):
        cluster.nodes.upsert(node(name))
        cluster.pods.upsert(pod(name))
    for n in range(2000):
        cluster.services.upsert(service(f"s{n}", str(ip_address("2001:db8::") + n)))
        cluster.slices.upsert(SliceNodes(f"ns/s{n}", "x", frozenset({"n1"}), frozenset()))
    cluster.engine.settle()
    assert len([k for k in cluster.writer.items if k[0] == "Layer2Group"]) == 2000
    judged = cluster.engine.decided
    cluster.slices.upsert(SliceNodes("ns/s7", "x", frozenset({"n2"}), frozenset()))
    cluster.slices.upsert(SliceNodes("ns/other", "x", frozenset({"n2"}), frozenset()))  # of no load balancer
    cluster.nodes.upsert(node("n2"))  # a heartbeat
    cluster.engine.settle()
    assert cluster.engine.decided == judged + 1


def test_why_a_service_is_announced_no_more() -> None:
    cluster = Cluster()
    for name in ("n1", "n2"):
        cluster.nodes.upsert(node(name))
        cluster.pods.upsert(pod(name))

    def why(change: Any) -> Any:
        cluster.slices.replace([SliceNodes("ns/a", "x", frozenset({"n2"}), frozenset())])
        cluster.services.upsert(service("a", "192.0.2.1"))
        cluster.engine.settle()
        list(cluster.writer.take())
        change()
        cluster.engine.settle()
        return cluster.writer._why.get("ns/a")

    put = cluster.services.upsert
    assert why(lambda: cluster.services.delete(service("a"))) == "serviceDeleted"
    assert why(lambda: put(NotServed("ns/a"))) == "notLoadBalancer"
    assert why(lambda: put(service("a"))) == "noIPAllocated"
    assert why(lambda: put(service("a", "192.0.2.2"))) == "loadBalancerIPChanged"
    assert why(lambda: put(service("a", "203.0.113.1"))) == "ipNotAllowed"
    assert why(lambda: cluster.slices.replace([])) == "noEndpoints"
    assert why(lambda: put(service("a", "192.0.2.1", labels={"x": "y"}))) is None


@pytest.mark.parametrize(
    ("status", "since", "state", "ready"),
    [
        ("True", "2026-01-01T00:00:09Z", {"running": {"startedAt": "2026-01-01T00:00:05Z"}}, True),
        # Was Ready, and runs on: it goes on announcing, whatever is wrong with its other half.
        ("False", "2026-01-01T00:01:00Z", {"running": {"startedAt": "2026-01-01T00:00:05Z"}}, True),
        # Has begun, and was never Ready.
        ("False", "2026-01-01T00:00:01Z", {"running": {"startedAt": "2026-01-01T00:00:05Z"}}, False),
        # Has ended.
        ("False", "2026-01-01T00:01:00Z", {"waiting": {"reason": "CrashLoopBackOff"}}, False),
        ("False", "2026-01-01T00:01:00Z", {}, False),
    ],
)
def test_a_pod_whose_announcer_runs_counts_as_alive(status: str, since: str, state: Any, ready: bool) -> None:
    containers = [{"name": "cluster", "state": {"terminated": {}}}, {"name": "speaker", "state": state}]
    conditions = [{"type": "Ready", "status": status, "lastTransitionTime": since}]
    read = read_pod(
        {
            "metadata": {"namespace": "ns", "name": "x"},
            "status": {"conditions": conditions, "containerStatuses": containers},
        }
    )
    assert read.ready is ready
