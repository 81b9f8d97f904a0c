"""The chart under GitOps controllers: what docs/gitops.md shows is valid, and Flux itself does with it what it says.

The kinds are the projects' own definitions, the controllers their own programs, from their Go modules. Where these
cannot be had, the tests are skipped, and say so.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import Cluster
from tests.cluster.client import KubeClient
from tests.e2e import flux as gitops
from tests.e2e import product
from tests.e2e.flux import Flux

pytestmark = pytest.mark.cluster

N = ("-n", product.NAMESPACE)
Object = dict[str, Any]

# --- the documents' examples ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def kinds(kube: KubeClient) -> Iterator[KubeClient]:
    """A cluster that knows the kinds of Argo CD and Flux."""
    wanted = gitops.definitions("argo-cd", "manifests/crds", "application-crd.yaml") + gitops.flux_definitions()
    there = kube.kubectl("get", "namespaces", "-o", "name").split()
    for namespace in (product.NAMESPACE, "argocd"):
        kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    made = gitops.define(kube, wanted)
    yield kube
    if made:
        kube.kubectl("delete", "crd", *made, "--wait=false")
    if "namespace/argocd" not in there:
        kube.kubectl("delete", "namespace", "argocd", "--wait=false")


def dry_run(kube: KubeClient, *documents: Object) -> str:
    """What the API server says to them; empty if it takes them as they are."""
    command = ["create", "--dry-run=server", "--validate=strict", "-f", "-"]
    told = kube.tool("kubectl", *command, input=yaml.safe_dump_all(documents), check=False)
    return told.stderr if told.returncode or told.stderr else ""


def test_the_document_shows_both_controllers() -> None:
    shown = [o["kind"] for o in gitops.examples()]
    assert shown == ["Application", "HelmRepository", "HelmRelease"]


@pytest.mark.parametrize("kind", ["Application", "HelmRepository", "HelmRelease"])
def test_examples_are_valid(kinds: KubeClient, kind: str, tally: Callable[[str, int], None]) -> None:
    [example] = [o for o in gitops.examples() if o["kind"] == kind]
    assert dry_run(kinds, example) == ""
    tally("GitOps: examples valid by the projects' own schemas", 1)


@pytest.mark.parametrize(
    ("kind", "path", "wrong"),
    [
        ("Application", ("spec", "syncPolicy", "managedNamespaceMetadata"), {"label": {"a": "b"}}),
        ("HelmRepository", ("spec", "interval"), "often"),
        ("HelmRelease", ("spec", "driftDetection", "mode"), "on"),
    ],
)
def test_a_wrong_example_would_be_noticed(kinds: KubeClient, kind: str, path: tuple[str, ...], wrong: Any) -> None:
    """Or the test above proves nothing."""
    [example] = [o for o in gitops.examples() if o["kind"] == kind]
    at = example = copy.deepcopy(example)
    for key in path[:-1]:
        at = at[key]
    assert path[-1] in at
    at[path[-1]] = wrong
    assert ".".join(path[:-1]) in dry_run(kinds, example)


# --- Flux itself ----------------------------------------------------------------------------------


@pytest.fixture
def flux(lab: Cluster, tmp_path: Path) -> Iterator[Flux]:
    product.clean(lab)
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": product.NAMESPACE}})
    lab.kubectl(*N, "create", "secret", "generic", "bgp-rack1", "--from-literal=password=hush")
    try:
        with Flux(lab, tmp_path) as running:
            yield running
    finally:
        lab.kubectl(*N, "delete", "secret", "bgp-rack1", "--ignore-not-found")
        lab.kubectl(*N, "delete", "pod,service,serviceaccount,role,rolebinding", "--ignore-not-found",
                    "-l", "app.kubernetes.io/component=test")  # fmt: skip
        product.clean(lab)


def revisions(lab: Cluster) -> list[tuple[int, str]]:
    """What Helm itself says of the release: (revision, status)."""
    return [(r["revision"], r["status"]) for r in json.loads(lab.helm("history", "metallb", *N, "-o", "json"))]


def uids(lab: Cluster) -> set[str]:
    return {p["metadata"]["uid"] for c in product.BY_HELM.values() for p in product.pods(lab, c)}


def state(lab: Cluster, manifest: str) -> dict[str, Any]:
    """Name -> what a write to the object would have changed, for each object of the release."""
    items = json.loads(lab.kubectl("get", "-f", "-", "-o", "json", input=manifest))["items"]
    return {f"{o['kind']} {o['metadata']['name']}": o["metadata"].get("generation", o["metadata"]["resourceVersion"])
            for o in items}  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize("times", [10, pytest.param(100, marks=pytest.mark.accept)])
def test_flux_installs_changes_corrects_and_rolls_back(
    lab: Cluster, flux: Flux, times: int, tally: Callable[[str, int], None]
) -> None:
    # Installation: the document's own example, but for where the chart and the images are, and with a pool whose
    # addresses can be reached here, or the chart's test would fail: the example's router is not there.
    repository, release = (o for o in gitops.examples() if o["kind"].startswith("Helm"))
    repository["spec"]["url"] = flux.repository
    del release["spec"]["values"]["global"]
    release["spec"]["values"]["configInline"] |= product.layer2()
    lab.apply(repository, release)
    flux.ready()
    assert flux.condition("TestSuccess")["status"] == "True"
    assert revisions(lab) == [(1, "deployed")]
    assert (
        yaml.safe_load(lab.json(*N, "configmap", "metallb")["data"]["config"])
        == release["spec"]["values"]["configInline"]
    )

    # A change of the values: another pool, no restart.
    pods = uids(lab)
    good = {"configInline": product.layer2()}
    flux.values(good)
    flux.ready()
    assert revisions(lab) == [(1, "superseded"), (2, "deployed")]
    product.apps(lab, [product.backend("one")])
    [[address]] = product.expose(lab, product.service("served", "one"))
    lab.wait("the page", lambda: lab.fetch(address), 20)
    assert uids(lab) == pods, "a change of the values restarted a pod"

    # Reconciled again and again: there is nothing to correct.
    manifest = lab.helm("get", "manifest", "metallb", *N)
    before = state(lab, manifest)
    for _ in range(times):
        flux.reconcile()
    assert state(lab, manifest) == before
    assert revisions(lab)[-1] == (2, "deployed")
    # As another field manager: Helm's own annotations on each object would else count as removed.
    diff = ["diff", "--server-side", "--force-conflicts", "-f", "-"]
    told = lab.tool("kubectl", *diff, input=manifest, check=False)
    assert (told.returncode, told.stdout) == (0, ""), told.stdout + told.stderr

    tally("GitOps: reconciles by Flux, then no difference", times)

    # Drift: somebody edits, scales and deletes by hand.
    lab.kubectl(*N, "delete", "role", "metallb-pod-lister")
    lab.kubectl(*N, "scale", "deployment", "metallb-controller", "--replicas=0")
    product.edit_config(lab, product.layer2("172.18.0.240/32"))
    flux.reconcile()
    assert lab.json(*N, "role", "metallb-pod-lister")["rules"]
    assert lab.json(*N, "deployment", "metallb-controller")["spec"]["replicas"] == 1
    assert yaml.safe_load(lab.json(*N, "configmap", "metallb")["data"]["config"]) == product.layer2()
    assert product.addresses(lab, "served") == [address]

    # A mistake fails while rendering: Flux says the path and the hint, the cluster stays as it is.
    manifest_before = state(lab, manifest)
    flux.values({"configInline": product.layer2("172.18.0.200")})
    said = flux.ready("False")["message"]
    assert "at '/configInline/address-pools/0/addresses/0'" in said
    assert "one address such as 192.0.2.1/32" in said
    assert state(lab, manifest) == manifest_before
    assert "pod=one-" in lab.fetch(address)

    # An upgrade that renders but does not come up: Flux rolls it back.
    flux.patch(timeout="20s", upgrade={"remediation": {"retries": 0, "remediateLastFailure": True}})
    flux.values(good | {"controller": {"image": {"repository": "localhost/nowhere/controller"}}})
    flux.ready("False")
    lab.wait("Flux has rolled back", lambda: flux.condition("Remediated").get("status") == "True", 120)
    rolled = revisions(lab)
    assert rolled[-2][1] in ("failed", "superseded")
    assert rolled[-1][1] == "deployed"
    [image] = {
        c["image"] for c in lab.json(*N, "deployment", "metallb-controller")["spec"]["template"]["spec"]["containers"]
    }
    assert image.startswith("localhost/metallb/controller:")
    assert product.addresses(lab, "served") == [address]
    assert "pod=one-" in lab.fetch(address)

    # Mended, and taken away.
    flux.values(good)
    flux.ready()
    lab.kubectl(*N, "delete", gitops.KIND, "metallb", "--timeout=120s")
    lab.wait("no pods", lambda: not uids(lab), 60)
    assert "metallb" not in lab.helm("list", *N, "-a", "-q").split()
