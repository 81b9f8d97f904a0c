"""The whole speaker against a real API server, as one container under the original's RBAC."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver import ApiServer
from tests.integration.layer2_lab import Host, Segment, inside, until
from tests.integration.speaker_lab import Announcer
from tests.integration.test_speaker_process import answers, mac, silent

pytestmark = pytest.mark.root

NAMESPACE = "metallb-system"
ADDRESS, OTHER = "10.9.0.210", "10.9.0.211"
CONFIG = """
address-pools:
- name: my-ip-space
  protocol: layer2
  addresses: [10.9.0.200-10.9.0.250]
"""
READ = ["get", "list", "watch"]


def rule(group: str, resources: list[str], verbs: list[str]) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


#: What the original's manifests grant its speaker, and no more.
CLUSTER_RULES = [
    rule("", ["services", "endpoints", "nodes"], READ),
    rule("discovery.k8s.io", ["endpointslices"], READ),
    rule("", ["events"], ["create", "patch"]),
]
NAMESPACE_RULES = [rule("", ["configmaps"], READ), rule("", ["pods"], ["list"])]


class Lab:
    """One node with an API server on its loopback, and a client beside it."""

    def __init__(self, segment: Segment, server: ApiServer) -> None:
        self.node, self.client = segment.hosts["n1"], segment.hosts["client"]
        self.server = server

    def grant(self) -> str:
        """A token of the speaker's ServiceAccount with the original's rights."""
        subject = {"kind": "ServiceAccount", "name": "speaker", "namespace": NAMESPACE}
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        self.server.create(f"{rbac}/clusterroles", {"metadata": {"name": "speaker"}, "rules": CLUSTER_RULES})
        self.server.create(
            f"{rbac}/clusterrolebindings",
            {
                "metadata": {"name": "speaker"},
                "subjects": [subject],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "speaker"},
            },
        )
        inner = f"{rbac}/namespaces/{NAMESPACE}"
        self.server.create(f"{inner}/roles", {"metadata": {"name": "speaker"}, "rules": NAMESPACE_RULES})
        self.server.create(
            f"{inner}/rolebindings",
            {
                "metadata": {"name": "speaker"},
                "subjects": [subject],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "speaker"},
            },
        )
        return self.server.service_account_token(NAMESPACE, "speaker")

    def config(self, text: str) -> None:
        body = {"metadata": {"name": "config"}, "data": {"config": text}}
        path = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
        if any(c["metadata"]["name"] == "config" for c in self.server.get(path)["items"]):
            self.server.merge(f"{path}/config", body)
        else:
            self.server.create(path, body)

    def service(self, name: str, ip: str, **spec: Any) -> None:
        path = "/api/v1/namespaces/default/services"
        ports = [{"port": 80, "protocol": "TCP"}]
        self.server.create(path, {"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "ports": ports, **spec}})
        status = {"status": {"loadBalancer": {"ingress": [{"ip": ip}]}}}
        self.server.merge(f"{path}/{name}/status", status)

    def endpoints(self, name: str, *, ready: bool = True, node: str = "n1") -> None:
        path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
        body = {
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.1.0.1"], "nodeName": node, "conditions": {"ready": ready}}],
            "ports": [],
        }
        if any(e["metadata"]["name"] == name for e in self.server.get(path)["items"]):
            self.server.merge(f"{path}/{name}", {"endpoints": body["endpoints"]})
        else:
            self.server.create(path, body)

    def make_node(self, name: str, host: Host) -> None:
        self.server.create("/api/v1/nodes", {"metadata": {"name": name}})
        conditions = [{"type": "Ready", "status": "True", "reason": "test"}]
        addresses = [{"type": "InternalIP", "address": host.ip4}]
        status = {"status": {"conditions": conditions, "addresses": addresses}}
        self.server.merge(f"/api/v1/nodes/{name}/status", status)

    def pod(self, node: str, host: Host) -> None:
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        container = {"name": "speaker", "image": "x", "env": [{"name": "METALLB_NODE_NAME", "value": node}]}
        body = {
            "metadata": {"name": f"speaker-{node}", "labels": {"app": "metallb", "component": "speaker"}},
            "spec": {"nodeName": node, "hostNetwork": True, "containers": [container]},
        }
        self.server.create(path, body)
        conditions = [{"type": "Ready", "status": "True"}]
        status = {"phase": "Running", "podIP": host.ip4, "podIPs": [{"ip": host.ip4}], "conditions": conditions}
        self.server.merge(f"{path}/speaker-{node}/status", {"status": status})

    def events(self, name: str) -> list[dict[str, Any]]:
        found = self.server.get("/api/v1/namespaces/default/events")["items"]
        return [e for e in found if e["involvedObject"]["name"] == name]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Segment("spc") as segment:
        node, _ = segment.host("n1"), segment.host("client")
        with inside(node.namespace), ApiServer() as server:
            made = Lab(segment, server)
            server.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            made.make_node("n1", node)
            made.pod("n1", node)
            yield made


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_one_container_under_the_originals_rights(lab: Lab) -> None:
    flags = [f"--kubeconfig={lab.server.kubeconfig(lab.grant())}", f"--namespace={NAMESPACE}"]
    flags += ["-ml-labels", "app=metallb,component=speaker", "-config=config", "-log-level=debug"]
    lab.service("web", ADDRESS)
    lab.endpoints("web")
    with Announcer(lab.node, "n1", *flags, mode="both") as speaker:
        # No configuration: idle, and it says so; ready all the same, so that an install completes.
        assert until(speaker.ready)
        assert speaker.metric("metallb_k8s_client_config_loaded_bool") == 0
        assert speaker.metric("metallb_k8s_client_config_stale_bool") == 1
        assert silent(lab.client, ADDRESS)
        # The configuration comes: at work without a restart.
        lab.config(CONFIG)
        assert until(lambda: speaker.metric("metallb_k8s_client_config_loaded_bool") == 1)
        assert until(lambda: answers(lab.client, ADDRESS) == mac(lab.node))
        assert until(lambda: bool(lab.events("web")))
        (event,) = lab.events("web")
        assert (event["reason"], event["type"], event["message"], event["source"]) == (
            "nodeAssigned",
            "Normal",
            'announcing from node "n1"',
            {"component": "metallb-speaker", "host": "n1"},
        )
        # A broken one displaces nothing.
        lab.config(CONFIG.replace("layer2", "arp"))
        assert until(lambda: speaker.metric("metallb_k8s_client_config_stale_bool") == 1)
        assert any("protocol" in problem for problem in speaker.status()["problems"])
        # Nor does one that would orphan an address; it is taken as soon as the Service is gone.
        lab.config(CONFIG.replace("10.9.0.200-", "10.9.0.211-"))
        assert until(lambda: any("cannot own" in problem for problem in speaker.status()["problems"]))
        assert answers(lab.client, ADDRESS) == mac(lab.node)
        # No endpoint is ready: withdrawn, and the log says why.
        lab.endpoints("web", ready=False)
        assert until(lambda: bool(speaker.logged(event="serviceWithdrawn", reason="noEndpoints")))
        assert silent(lab.client, ADDRESS)
        lab.endpoints("web")
        assert until(lambda: answers(lab.client, ADDRESS) == mac(lab.node))
        # The cluster half dies: nothing that is announced changes, and there is a new one.
        (child,) = children(speaker.process.pid)
        os.kill(child, signal.SIGKILL)
        assert answers(lab.client, ADDRESS) == mac(lab.node)
        assert until(lambda: children(speaker.process.pid) not in ([], [child]))
        lab.server.delete("/api/v1/namespaces/default/services/web")
        assert until(lambda: bool(speaker.logged(event="serviceWithdrawn", reason="serviceDeleted")))
        assert until(lambda: silent(lab.client, ADDRESS))
        lab.service("next", OTHER)
        lab.endpoints("next")
        assert until(lambda: answers(lab.client, OTHER) == mac(lab.node))
        # The API server goes: nothing changes. Then the speaker goes, and its child with it.
        lab.server.stop_api()
        assert answers(lab.client, OTHER) == mac(lab.node)
        (child,) = children(speaker.process.pid)
        os.kill(child, signal.SIGTERM)  # as a whole group may get it: the child waits for its parent
        assert children(speaker.process.pid) == [child]
        assert speaker.stop() == 0
        assert not Path(f"/proc/{child}").exists()
        assert not speaker.logged(level="error", op="job")
        assert "Traceback" not in speaker.log.read_text()


def test_the_child_has_no_capability(lab: Lab) -> None:
    flags = [f"--kubeconfig={lab.server.kubeconfig()}", f"--namespace={NAMESPACE}"]
    with Announcer(lab.node, "n1", *flags, mode="both", key="withheld") as speaker:
        assert until(speaker.ready)
        (child,) = children(speaker.process.pid)
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines())
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == "1"
        assert os.getsid(child) == child
        assert b"withheld" not in Path(f"/proc/{child}/environ").read_bytes()


def test_two_containers(lab: Lab) -> None:
    """The announcer without a token, the cluster half without a socket of its own, each restarted by itself."""
    flags = [f"--kubeconfig={lab.server.kubeconfig()}", f"--namespace={NAMESPACE}"]
    lab.config(CONFIG)
    lab.service("web", ADDRESS, externalTrafficPolicy="Local")
    lab.endpoints("web")
    with (
        Announcer(lab.node, "n1") as announcer,
        Announcer(lab.node, "n1", *flags, mode="cluster", directory=announcer.directory) as cluster,
    ):
        assert until(lambda: answers(lab.client, ADDRESS) == mac(lab.node))
        assert announcer.ready()
        lab.endpoints("web", node="n2")
        assert until(lambda: silent(lab.client, ADDRESS))
        lab.endpoints("web", node="n1")
        assert until(lambda: answers(lab.client, ADDRESS) == mac(lab.node))
        assert announcer.stop() == 0
        announcer.start()
        assert until(lambda: answers(lab.client, ADDRESS) == mac(lab.node))
        assert until(announcer.ready)
        # A cluster half that hangs shows in the readiness and in a gauge, and takes nothing down.
        cluster.send(signal.SIGSTOP)
        assert until(lambda: not announcer.ready(), step=0.5)
        assert announcer.metric("metallb_speaker_cluster_up") == 0
        assert answers(lab.client, ADDRESS) == mac(lab.node)
        cluster.send(signal.SIGCONT)
        assert until(announcer.ready)
        assert cluster.stop() == 0
        assert answers(lab.client, ADDRESS) == mac(lab.node)
