"""The chart's objects against a real API server: accepted, complete, and the same ever after.

Also kubeconform, with schemas taken from that API server, so that a typo in a field is found without one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.tools import NAMESPACE, ROOT, VALUES, Object, objects, template
from tests.cluster import toolchain
from tests.cluster.client import KubeClient
from tests.e2e import operator_kinds, product

pytestmark = pytest.mark.cluster

#: What the API server adds to an object of ours that no manifest writes: set by the cluster, or an old alias.
ADDED = {
    "spec.template.spec.serviceAccount",  # the old name of serviceAccountName
    "spec.clusterIPs",
    "spec.ipFamilies",  # depends on the cluster
}


@pytest.fixture(scope="module")
def kinds(kube: KubeClient) -> Iterator[KubeClient]:
    """A cluster with the namespace, and with the Prometheus Operator's kinds unless it has them."""
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    there = kube.kubectl("get", "crd", "-o", "name")
    missing = [crd for crd in operator_kinds.DEFINITIONS if crd["metadata"]["name"] not in there]
    names = [crd["metadata"]["name"] for crd in missing]
    if missing:
        kube.apply(*missing)
        kube.kubectl("wait", "--for=condition=Established", "--timeout=90s", *[f"crd/{n}" for n in names])
    yield kube
    if names:
        kube.kubectl("delete", "crd", *names)


def decoded(text: str) -> list[Any]:
    """Several JSON documents, one after the other."""
    decoder, found, rest = json.JSONDecoder(), [], text.strip()
    while rest:
        one, end = decoder.raw_decode(rest)
        found.append(one)
        rest = rest[end:].strip()
    return [item for one in found for item in (one["items"] if one["kind"] == "List" else [one])]


def added(live: Any, ours: Any, path: str = "") -> Iterator[str]:
    """Paths at which the stored object says more than, or other than, the rendered one."""
    if isinstance(live, dict) and isinstance(ours, dict):
        for key in {**live, **ours}:
            here = f"{path}.{key}".removeprefix(".")
            if key not in ours or key not in live:
                yield here
            else:
                yield from added(live[key], ours[key], here)
    elif isinstance(live, list) and isinstance(ours, list) and len(live) == len(ours):
        for i, (a, b) in enumerate(zip(live, ours, strict=True)):
            yield from added(a, b, f"{path}[{i}]")
    elif live != ours:
        yield path


every_file = pytest.mark.parametrize("values", VALUES, ids=lambda p: p.name.removesuffix("-values.yaml"))


def rendered(values: Path) -> list[Object]:
    told = template(values)
    assert told.returncode == 0, told.stderr
    return objects(told.stdout)


@every_file
def test_accepted_and_complete(kinds: KubeClient, values: Path, tally: Callable[[str, int], None]) -> None:
    """Server-side dry run with strict fields: nothing is refused, ignored, renamed or defaulted behind our back."""
    ours = rendered(values)
    command = ["create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-"]
    told = kinds.tool("kubectl", *command, input=yaml.safe_dump_all(ours), check=False)
    assert told.returncode == 0, told.stderr
    assert "Warning" not in told.stderr, told.stderr
    live = {(o["kind"], o["metadata"]["name"]): o for o in decoded(told.stdout)}
    assert len(live) == len(ours)
    tally("API server: objects accepted, complete, by a dry run", len(ours))
    for mine in ours:
        theirs = live[mine["kind"], mine["metadata"]["name"]]
        differences = {p for p in added(theirs, mine) if not p.startswith(("metadata.", "status"))}
        assert differences <= ADDED, f"{mine['kind']} {mine['metadata']['name']}: {sorted(differences - ADDED)}"


def standalone(swagger: dict[str, Any], folder: Path) -> None:
    """One JSON schema per kind, in kubeconform's file names, out of the API server's OpenAPI document."""
    definitions = swagger["definitions"]
    definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = {"type": ["integer", "string"]}
    definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"type": ["number", "string"]}
    for definition in definitions.values():
        if "properties" in definition:
            definition.setdefault("additionalProperties", False)
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            group = kind["group"].partition(".")[0]
            parts = [kind["kind"].lower(), *([group] if group else []), kind["version"]]
            reached = reachable(definitions, name)
            schema = {"$ref": f"#/definitions/{name}", "definitions": {n: definitions[n] for n in reached}}
            (folder / f"{'-'.join(parts)}.json").write_text(json.dumps(schema))


def reachable(definitions: dict[str, Any], name: str) -> set[str]:
    found: set[str] = set()
    todo = [name]
    while todo:
        here = todo.pop()
        if here in found:
            continue
        found.add(here)
        text = json.dumps(definitions[here])
        todo += [part.partition('"')[0] for part in text.split('"#/definitions/')[1:]]
    return found


@pytest.fixture(scope="module")
def schemas(kinds: KubeClient, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schemas")
    wanted = {"ConfigMap", "Secret", "Service", "ServiceAccount", "Deployment", "DaemonSet", "PodDisruptionBudget"}
    wanted |= {"NetworkPolicy", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Namespace", "Pod"}
    wanted |= {"PodMonitor", "ServiceMonitor", "PrometheusRule"}
    swagger = json.loads(kinds.kubectl("get", "--raw", "/openapi/v2"))
    for definition in swagger["definitions"].values():
        gvk = definition.get("x-kubernetes-group-version-kind", [])
        definition["x-kubernetes-group-version-kind"] = [g for g in gvk if g["kind"] in wanted]
    standalone(swagger, folder)
    return folder


def kubeconform(schemas: Path, text: str) -> subprocess.CompletedProcess[str]:
    location = f"{schemas}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    command = [str(toolchain.path("kubeconform")), "-strict", "-summary", "-schema-location", location, "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)


@every_file
def test_kubeconform(schemas: Path, values: Path, tally: Callable[[str, int], None]) -> None:
    told = kubeconform(schemas, template(values).stdout)
    assert told.returncode == 0, told.stdout + told.stderr
    valid = re.search(r"Valid: (\d+), Invalid: 0, Errors: 0, Skipped: 0", told.stdout)
    assert valid, told.stdout
    tally("kubeconform: objects valid", int(valid[1]))


@pytest.mark.parametrize("name", ["namespace", "metallb", "example-layer2", "example-bgp"])
def test_kubeconform_of_the_manifests(schemas: Path, name: str) -> None:
    told = kubeconform(schemas, (ROOT / "manifests" / f"{name}.yaml").read_text())
    assert told.returncode == 0, told.stdout + told.stderr


def test_kubeconform_finds_a_wrong_field(schemas: Path) -> None:
    """Or the tests above prove nothing."""
    broken = template(VALUES[0]).stdout.replace("hostNetwork: true", "hostNetwerk: true")
    assert kubeconform(schemas, broken).returncode != 0


WORKERS = 5


def reconcile(kube: KubeClient, text: str, times: int) -> str:
    """Apply every object that often, one after the other, in one call."""
    return kube.kubectl("apply", "-f", "-", input="---\n".join([text] * times), timeout=300)


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize("times", [10, pytest.param(100, marks=pytest.mark.accept)])
def test_no_difference_after_many_reconciles(
    kube_with_images: KubeClient, times: int, tally: Callable[[str, int], None]
) -> None:
    """What a GitOps controller sees: nothing at run time edits what the chart owns, so nothing has to be put back."""
    kube = kube_with_images
    product.clean(kube)
    values = {"configInline": product.layer2(), "controller": {"replicas": 2}}
    registry = os.environ.get("METALLB_IMAGE_REGISTRY")
    if registry:
        values["global"] = {"imageRegistry": registry}
    text = template(values, "--skip-tests").stdout
    try:
        kube.kubectl("apply", "-f", "-", input=text)
        for workload in ("deployment/metallb-controller", "daemonset/metallb-speaker"):
            kube.kubectl("-n", NAMESPACE, "rollout", "status", workload, "--timeout=120s")
        before = versions(kube, text)
        # kubectl limits its own rate of requests, so several of them share the work.
        with ThreadPoolExecutor(WORKERS) as pool:
            for said in pool.map(lambda _: reconcile(kube, text, times // WORKERS), range(WORKERS)):
                assert [line for line in said.splitlines() if not line.endswith(" unchanged")] == []
        told = kube.tool("kubectl", "diff", "-f", "-", input=text, check=False)
        assert (told.returncode, told.stdout) == (0, ""), told.stdout + told.stderr
        assert versions(kube, text) == before
        tally("kubectl: forced reconciles, then no difference", times)
    finally:
        kube.kubectl("delete", "-f", "-", "--ignore-not-found", input=text)


def versions(kube: KubeClient, text: str) -> dict[tuple[str, str], Any]:
    """Generation, or for objects without one the resourceVersion, of each object: what an edit would raise."""
    live = decoded(kube.kubectl("get", "-f", "-", "-o", "json", input=text))
    return {
        (o["kind"], o["metadata"]["name"]): o["metadata"].get("generation", o["metadata"]["resourceVersion"])
        for o in live
    }
