"""The product in a cluster, as its user handles it: installing, Services, backends, events, metrics."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.cluster import Cluster, guests
from tests.cluster.client import KubeClient
from tests.cluster.instance import ClusterError

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "chart"
MANIFESTS = ROOT / "manifests"
NAMESPACE = "metallb-system"
APP = "apps"  # the namespace of Services and backends

POOL_V4 = "172.18.0.200-172.18.0.250"
POOL_V6 = "fd00:172:18::200-fd00:172:18::250"
PORT = 80

#: The pods of an installation: by Helm, and by manifests or Kustomize.
BY_HELM = {c: f"app.kubernetes.io/name=metallb,app.kubernetes.io/component={c}" for c in ("controller", "speaker")}
BY_MANIFESTS = {c: f"app=metallb,component={c}" for c in ("controller", "speaker")}


def layer2(*addresses: str, name: str = "my-ip-space", **more: Any) -> dict[str, Any]:
    """A configuration of one layer 2 pool; the fabric's two ranges if no address is named."""
    pool = {"name": name, "protocol": "layer2", "addresses": list(addresses or (POOL_V4, POOL_V6))}
    return {"address-pools": [pool | more]}


def install(kube: KubeClient, config: dict[str, Any] | None = None, **values: Any) -> None:
    """``helm install metallb`` of the chart in the tree, and wait until everything is ready."""
    kube.helm("install", "metallb", str(CHART), "-n", NAMESPACE, "--create-namespace", "-f", "-", "--wait",
              "--timeout", "360s", input=json.dumps(given(config, **values)))  # fmt: skip


def given(config: dict[str, Any] | None, **values: Any) -> dict[str, Any]:
    """The values for an installation: with images from the user's registry if there is one."""
    registry = os.environ.get("METALLB_IMAGE_REGISTRY")
    return (
        values
        | ({"configInline": config} if config is not None else {})
        | ({"global": {"imageRegistry": registry}} if registry else {})
    )


def clean(kube: KubeClient) -> None:
    """No installation, no Services, no backends: as before the first test. Namespaces stay, to save their slow end."""
    if "metallb" in kube.helm("list", "-n", NAMESPACE, "-a", "-q").split():
        kube.helm("uninstall", "metallb", "-n", NAMESPACE, "--wait")
    kube.kubectl("delete", "-f", str(MANIFESTS / "metallb.yaml"), "--ignore-not-found", "--wait=false")
    kube.kubectl("-n", NAMESPACE, "delete", "configmap", "config", "--ignore-not-found")
    kube.kubectl("-n", APP, "delete", "service,deployment", "--all", "--ignore-not-found")
    for namespace in (NAMESPACE, APP):
        kube.wait(f"no pods in {namespace}", lambda n=namespace: not kube.json("-n", n, "pods")["items"], 60)


def ensure(kube: KubeClient) -> None:
    """The chart installed with `layer2()` and nothing else; kept from the module before if that left it so."""
    kube.tool("kubectl", "-n", APP, "delete", "service,deployment", "--all", "--ignore-not-found")
    listed = json.loads(kube.helm("list", "-n", NAMESPACE, "-o", "json"))
    values = "null"
    if [r["status"] for r in listed if r["name"] == "metallb"] == ["deployed"]:
        values = kube.helm("get", "values", "metallb", "-n", NAMESPACE, "-o", "json")
    if json.loads(values) == given(layer2()):
        edit_config(kube, layer2())
    else:
        clean(kube)
        install(kube, layer2())


def edit_config(kube: KubeClient, config: dict[str, Any] | str, *, name: str = "metallb") -> None:
    """Replace the document in the ConfigMap, as with ``kubectl edit``."""
    text = config if isinstance(config, str) else json.dumps(config)
    patch = json.dumps({"data": {"config": text}})
    kube.kubectl("-n", NAMESPACE, "patch", "configmap", name, "--type=merge", "-p", patch)


# --- Services and what is behind them -------------------------------------------------------------


def backend(name: str, node: str = "", replicas: int = 1) -> dict[str, Any]:
    """A Deployment of the guest's web backend on port 8080, on one node if one is named."""
    labels = {"app": "web", "backend": name}
    spec: dict[str, Any] = {
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "web",
                "image": guests.GUEST,
                "args": ["web", "8080"],
                "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
            }
        ],
    }
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": APP},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def service(name: str, to: str = "", **spec: Any) -> dict[str, Any]:
    """A Service of type LoadBalancer to one backend (all if none is named); `spec` adds to its spec."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": APP},
        "spec": {
            "type": "LoadBalancer",
            "selector": {"app": "web"} | ({"backend": to} if to else {}),
            "ports": [{"port": PORT, "targetPort": 8080}],
        }
        | spec,
    }


DUAL = {"ipFamilyPolicy": "RequireDualStack"}
LOCAL = {"externalTrafficPolicy": "Local"}


def apps(kube: KubeClient, backends: Iterable[dict[str, Any]]) -> None:
    """The namespace of the Services, with these backends, all of them ready."""
    wanted = list(backends)
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": APP}}, *wanted)
    for one in wanted:
        kube.kubectl("-n", APP, "rollout", "status", f"deployment/{one['metadata']['name']}", "--timeout=180s")


def addresses(kube: KubeClient, name: str) -> list[str]:
    """The addresses in a Service's status now."""
    status = kube.json("-n", APP, "service", name)["status"]
    return [i["ip"] for i in status.get("loadBalancer", {}).get("ingress", [])]


def expose(kube: KubeClient, *services: dict[str, Any], timeout: float = 30.0) -> list[list[str]]:
    """Create Services and wait until each has its addresses; those of each, in the order given."""
    kube.apply(*services)
    names = [s["metadata"]["name"] for s in services]
    for name in names:
        kube.wait(f"an address for {name}", lambda name=name: addresses(kube, name), timeout)
    return [addresses(kube, name) for name in names]


def remove(kube: KubeClient, *names: str) -> None:
    kube.kubectl("-n", APP, "delete", "service", *names, "--ignore-not-found", "--wait=true")


def ranked(nodes: Iterable[str], address: str) -> list[str]:
    """Nodes by preference for an address: MetalLB's rule, the lowest sha256 of ``node#address`` first."""
    return sorted(nodes, key=lambda node: hashlib.sha256(f"{node}#{address}".encode()).digest())


def sole_owner(cluster: Cluster, address: str, timeout: float = 20.0) -> str:
    """The node that answers ARP or NDP for an address, alone, three times in a row. Raises AssertionError if none does.

    Speakers that have just started may still be handing the address over: then the count begins anew.
    """
    seen: list[list[str]] = []

    def settled() -> bool:
        seen.append(cluster.owners(address, attempts=1))
        last = seen[-3:]
        return len(last) == 3 and len(last[0]) == 1 and last[0] == last[1] == last[2]

    try:
        cluster.wait(f"one node alone answers for {address}", settled, timeout, every=0)
    except ClusterError as error:
        raise AssertionError(f"{error}; asked again and again: {seen}") from None
    return seen[-1][0]


def still_owns(cluster: Cluster, address: str, owner: str) -> None:
    """The same node answers, alone; another one for a while only if a speaker did not get to run, as the logs say then.

    Half a second is enough: the others rightly take its addresses, and give them back.
    """
    if (now := sole_owner(cluster, address)) == owner:
        return
    said = [
        line
        for pod in pods(cluster, BY_HELM["speaker"])
        for line in cluster.kubectl(
            "-n", NAMESPACE, "logs", pod["metadata"]["name"], "-c", "speaker", "--since=60s"
        ).splitlines()
        if '"event":"stopped"' in line.replace(" ", "") or '"event":"failed"' in line.replace(" ", "")
    ]
    assert said, f"{address} moved from {owner} to {now}"
    cluster.wait(f"{owner} has {address} again", lambda: sole_owner(cluster, address) == owner, 30)


# --- what the product says --------------------------------------------------------------------------


def pods(kube: KubeClient, selector: str) -> list[dict[str, Any]]:
    return list(kube.json("-n", NAMESPACE, "pods", "-l", selector)["items"])


def restarts(kube: KubeClient, selector: str) -> int:
    """Restarts of all containers together."""
    return sum(s["restartCount"] for p in pods(kube, selector) for s in p["status"].get("containerStatuses", []))


def events(kube: KubeClient, kind: str, name: str, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    found = kube.json(
        "-n", namespace, "events", f"--field-selector=involvedObject.kind={kind},involvedObject.name={name}"
    )
    return sorted(found["items"], key=lambda e: str(e.get("lastTimestamp") or ""))


def metrics(kube: KubeClient, pod: str, port: int = 7472) -> dict[str, float]:
    """Series (with labels, as they stand in the text) to values, by way of the API server's proxy."""
    text = kube.kubectl("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:{port}/proxy/metrics")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            found[series] = float(value)
    return found


def metric(kube: KubeClient, selector: str, name: str) -> list[float]:
    """One value per pod of a metric without labels. Raises ClusterError if a pod has none."""
    values = []
    for pod in pods(kube, selector):
        found = metrics(kube, pod["metadata"]["name"])
        if name not in found:
            raise ClusterError(f"{pod['metadata']['name']} has no metric {name}")
        values.append(found[name])
    return values
