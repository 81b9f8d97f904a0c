"""Deciding what has changed only, against deciding everything."""

from __future__ import annotations

import random
from ipaddress import ip_address
from typing import Any

import pytest

from metallb_speaker.cluster.view import (
    NotServed,
    SliceNodes,
    SpeakerPod,
    read_endpoints,
    read_pod,
    read_service,
    read_slice,
)
from tests.unit.decide_lab import (
    Cluster,
    node,
    pod,
    service,
)


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
