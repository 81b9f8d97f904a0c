"""Plain kubectl: the manifests alone run idle, and work as soon as a ConfigMap comes, without a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.e2e import product

pytestmark = [pytest.mark.root, pytest.mark.cluster]


@pytest.fixture(scope="module")
def applied(lab: Cluster) -> Iterator[Cluster]:
    product.clean(lab)
    for name in ("namespace.yaml", "metallb.yaml"):
        lab.kubectl("apply", "-f", str(product.MANIFESTS / name))
    product.apps(lab, [product.backend("one")])
    yield lab
    product.clean(lab)


def ready_pods(cluster: Cluster) -> int:
    return sum(
        all(s["ready"] for s in p["status"].get("containerStatuses", [{"ready": False}]))
        for selector in product.BY_MANIFESTS.values()
        for p in product.pods(cluster, selector)
    )


def test_pods_idle_without_a_configuration_and_work_at_once_with_one(applied: Cluster, tmp_path: Path) -> None:
    wanted = 1 + len(applied.nodes)
    applied.wait("controller and speakers are ready", lambda: ready_pods(applied) == wanted, 90)
    applied.apply(product.service("first", "one"))
    before = {p["metadata"]["uid"] for p in applied.pods(product.NAMESPACE)}
    assert product.addresses(applied, "first") == []

    document = tmp_path / "config"
    document.write_text(
        "address-pools:\n  - name: my-ip-space\n    protocol: layer2\n    addresses: [172.18.0.200-172.18.0.250]\n"
    )
    applied.kubectl("-n", product.NAMESPACE, "create", "configmap", "config", f"--from-file=config={document}")
    applied.wait("an address", lambda: product.addresses(applied, "first") == ["172.18.0.200"], 20)
    applied.wait("the page", lambda: "pod=one-" in applied.fetch("172.18.0.200"), 20)
    assert product.sole_owner(applied, "172.18.0.200") in applied.nodes
    assert {p["metadata"]["uid"] for p in applied.pods(product.NAMESPACE)} == before
    assert [product.restarts(applied, s) for s in product.BY_MANIFESTS.values()] == [0, 0]
    product.remove(applied, "first")


def test_names_and_labels_are_the_originals(applied: Cluster) -> None:
    listed = applied.kubectl(
        "-n", product.NAMESPACE, "get", "deployment,daemonset,serviceaccount,role", "-l", "app=metallb", "-o", "name"
    )
    assert {
        "deployment.apps/controller",
        "daemonset.apps/speaker",
        "serviceaccount/controller",
        "serviceaccount/speaker",
        "role.rbac.authorization.k8s.io/config-watcher",
        "role.rbac.authorization.k8s.io/pod-lister",
    } <= set(listed.split())
    for kind in ("clusterrole", "clusterrolebinding"):
        assert applied.json(kind, "metallb-system:speaker")
