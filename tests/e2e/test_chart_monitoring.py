"""Prometheus itself beside the cluster: the dashboard's queries find something, and the alerts see what has happened.

What promtool judges with made-up series is here judged with our own. Debian's Prometheus cannot ask the API server for
its targets, so these are given to it, with the labels that the Prometheus Operator would give them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.tools import one, render
from tests.cluster import Cluster, toolchain
from tests.e2e import product

pytestmark = [pytest.mark.cluster, pytest.mark.root]

HOST = "node1"  # pods are reached from nodes
WHERE = "http://127.0.0.1:9099"
ACCOUNT = ("prometheus-k8s", "monitoring")  # the chart's defaults
CONFIG = {
    "address-pools": [
        {"name": "small", "protocol": "layer2", "addresses": ["172.18.0.200-172.18.0.204"]},
        {"name": "routed", "protocol": "bgp", "addresses": ["198.51.100.0/28"], "auto-assign": False},
    ],
    # Nobody is there: the session stays down.
    "peers": [{"my-asn": 64500, "peer-asn": 64501, "peer-address": "172.18.0.99", "bfd-profile": "quick"}],
    "bfd-profiles": [{"name": "quick"}],
}


class Prometheus:
    """What it is asked."""

    def __init__(self, lab: Cluster) -> None:
        self.lab = lab

    def ask(self, path: str, **query: str) -> Any:
        form = [part for key, value in query.items() for part in ("--data-urlencode", f"{key}={value}")]
        told = json.loads(self.lab.run_in(HOST, "curl", "-sS", "-G", f"{WHERE}/api/v1/{path}", *form).stdout)
        assert told["status"] == "success", told
        return told["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        return list(self.ask("query", query=expression)["result"])

    def alerts(self) -> dict[str, str]:
        """Alert -> pending or firing."""
        return {a["labels"]["alertname"]: a["state"] for a in self.ask("alerts")["alerts"]}


@pytest.fixture(scope="module")
def prometheus(lab: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scraping our pods every second, our alerts loaded."""
    toolchain.packages(["monitoring"])
    folder = tmp_path_factory.mktemp("prometheus")
    product.clean(lab)
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": product.NAMESPACE}})
    monitors: dict[str, Any] = {kind: {"enabled": True} for kind in ("podMonitor", "serviceMonitor", "prometheusRule")}
    found = render({"configInline": CONFIG, "prometheus": monitors})
    ours = [o for o in found if o["apiVersion"] != "monitoring.coreos.com/v1"]
    try:
        lab.apply(*ours)
        for workload in ("deployment/metallb-controller", "daemonset/metallb-speaker"):
            lab.kubectl("-n", product.NAMESPACE, "rollout", "status", workload, "--timeout=120s", timeout=150)
        lab.spawn("prometheus", HOST, *command(folder, one(found, "PrometheusRule"), targets(lab)))
        yield Prometheus(lab)
    finally:
        if "prometheus" in lab.processes.names():
            lab.processes.forget("prometheus")
        lab.kubectl("delete", "--ignore-not-found", "-f", "-", input=yaml.safe_dump_all(ours))
        product.clean(lab)


def targets(lab: Cluster) -> list[dict[str, Any]]:
    """Every pod's metrics port, under the labels of a PodMonitor's target."""
    pods = [p for c in product.BY_HELM.values() for p in product.pods(lab, c)]
    found = []
    for pod in pods:
        [port] = [p["containerPort"] for c in pod["spec"]["containers"] for p in c.get("ports", [])
                  if p["name"] == "monitoring"]  # fmt: skip
        labels = {"namespace": product.NAMESPACE, "pod": pod["metadata"]["name"]}
        labels["job"] = pod["metadata"]["labels"]["app.kubernetes.io/name"]  # prometheus.podMonitor.jobLabel
        found.append({"targets": [f"{pod['status']['podIP']}:{port}"], "labels": labels})
    return found


def command(folder: Path, rule: dict[str, Any], where: list[dict[str, Any]]) -> list[str]:
    rules = folder / "rules.json"
    rules.write_text(json.dumps(rule["spec"]))
    often = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    scrape = {"job_name": "pods", "static_configs": where}
    config = {"global": often, "rule_files": [str(rules)], "scrape_configs": [scrape]}
    (folder / "prometheus.json").write_text(json.dumps(config))
    return [
        "prometheus", f"--config.file={folder}/prometheus.json", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={WHERE.removeprefix('http://')}", "--log.level=warn",
    ]  # fmt: skip


def test_every_pod_is_scraped(lab: Cluster, prometheus: Prometheus) -> None:
    wanted = {p["metadata"]["name"] for c in product.BY_HELM.values() for p in product.pods(lab, c)}
    assert len(wanted) == 1 + len(lab.nodes)
    lab.wait(
        "every pod is scraped",
        lambda: {r["metric"]["pod"] for r in prometheus.query('up{job="metallb"} == 1')} == wanted,
        30,
    )


@pytest.mark.parametrize("kind", ["pods", "services", "endpoints", "endpointslices.discovery.k8s.io"])
def test_the_role_for_prometheus_lets_it_find_targets(lab: Cluster, prometheus: Prometheus, kind: str) -> None:
    """As the account of the values; and an account of another name may not."""
    name, namespace = ACCOUNT
    for account, answer in ((name, "yes"), ("another", "no")):
        who = f"--as=system:serviceaccount:{namespace}:{account}"
        for verb in ("get", "list", "watch"):
            can = lab.tool("kubectl", "auth", "can-i", verb, kind, "-n", product.NAMESPACE, who, check=False)
            assert can.stdout.strip() == answer, f"{account} {verb} {kind}"


#: Panels that count what is wrong, and is not here: their zero is not a series of ours.
NONE = {"Processes without a configuration"}


def dashboard() -> list[tuple[str, str]]:
    """(panel, query) with the dashboard's variable filled in, and without its zero for nothing."""
    text = json.loads((product.CHART / "dashboards" / "metallb.json").read_text())
    found = [(p["title"], t["expr"].replace("$job", "metallb")) for p in text["panels"] for t in p["targets"]]
    return [(title, e if title in NONE else e.removesuffix(" or vector(0)")) for title, e in found]


def test_every_query_of_the_dashboard_finds_something(
    lab: Cluster, prometheus: Prometheus, tally: Callable[[str, int], None]
) -> None:
    product.apps(lab, [product.backend("one")])
    services = [product.service(f"used{i}", "one") for i in range(4)]
    [[address], *_] = product.expose(lab, *services)
    lab.wait("the page", lambda: lab.fetch(address), 30)

    def empty() -> list[str]:
        return [f"{panel}: {expression}" for panel, expression in dashboard() if not prometheus.query(expression)]

    lab.wait("a value for every query of the dashboard", lambda: not empty(), 60, every=1)
    for panel, expression in dashboard():
        for by in re.findall(r"\bby \((\w+)\)", expression):
            for series in prometheus.query(expression):
                assert series["metric"].get(by) or series["metric"] == {}, f"{panel}: nothing is known by {by}"
    tally("monitoring: queries of the dashboard that find something", len(dashboard()))


def test_alerts_see_what_has_happened(lab: Cluster, prometheus: Prometheus) -> None:
    """Four of five addresses are in use, a session is down; then the configuration is broken, and mended."""

    def just_these() -> bool:
        told = prometheus.alerts()
        down = told.pop("MetalLBBGPSessionDown", "")
        return down in ("pending", "firing") and told == {"MetalLBAddressPoolUsage75Percent": "firing"}

    # Waited for: a scrape that took longer than its second ends the series until the next.
    lab.wait("the pool and the session are reported, and nothing else", just_these, 60)
    product.edit_config(lab, {"address-pool": []})
    lab.wait("the broken configuration is seen", lambda: "MetalLBStaleConfig" in prometheus.alerts(), 30)
    product.edit_config(lab, CONFIG)
    lab.wait("and that it was mended", lambda: "MetalLBStaleConfig" not in prometheus.alerts(), 30)
