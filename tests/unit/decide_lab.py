"""Views of a cluster, and one that changes, for the tests of what a node decides."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from metallb_common.config.model import BgpAdvertisement, Config, Peer, Pool
from metallb_common.kube.views import Node, Service
from metallb_common.net.ranges import AddressRange, from_network
from metallb_common.net.selectors import LabelSelector, Requirement
from metallb_speaker.cluster import decide_bgp, decide_layer2
from metallb_speaker.cluster.engine import Engine
from metallb_speaker.cluster.members import members
from metallb_speaker.cluster.verdict import Context, judge
from metallb_speaker.cluster.view import (
    Changes,
    ClusterView,
    NodeSink,
    PodSink,
    ServiceSink,
    SliceNodes,
    SliceSink,
    SpeakerPod,
)
from metallb_speaker.desired import Layer2Group
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
NOT_READY, NO_NETWORK, CORDONED = {"ready": False}, {"network_unavailable": True}, {"unschedulable": True}


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def routes(made: ClusterView, config: Config = CONFIG) -> dict[str, tuple[str, ...]]:
    context = Context(config, made)
    verdicts = {key: judge(context, s) for key, s in made.services.items()}
    return {
        route.prefix: tuple(s for a in route.addresses for s in a.services)
        for route in decide_bgp.decide(config, made, verdicts)
    }


PEER = Peer("p", 64512, 64513, ip_address("10.9.0.1"))
PEER_KEY = "10.9.0.1 179"


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
        return {
            *decide_layer2.groups_of(verdicts),
            *decide_bgp.decide(CONFIG, self.view, verdicts),
            *members(self.view),
            *decide_bgp.sessions(CONFIG, self.view).peers,
        }
