"""Flux's source-controller and helm-controller, the real programs, on a host of their own beside the cluster."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import Cluster, ClusterError, toolchain
from tests.e2e import product

HOST, NUMBER = "flux", 40
ARTIFACTS, CHARTS = 9090, 8000
KIND = "helmreleases.helm.toolkit.fluxcd.io"
Object = dict[str, Any]


def definitions(group: str, folder: str, *names: str) -> list[Object]:
    """CustomResourceDefinitions out of a module's tree; a visible skip where the module cannot be fetched."""
    try:
        tree = toolchain.source(group)
    except toolchain.ToolchainError as error:
        pytest.skip(f"Flux or Argo CD cannot be fetched here: {error}")
    return [yaml.safe_load((tree / folder / name).read_text()) for name in names]


def flux_definitions() -> list[Object]:
    plurals = "buckets externalartifacts gitrepositories helmcharts helmrepositories ocirepositories"
    names = [f"source.toolkit.fluxcd.io_{plural}.yaml" for plural in plurals.split()]
    return [
        *definitions("flux-source-controller", "config/crd/bases", *names),
        *definitions("flux-helm-controller", "config/crd/bases", "helm.toolkit.fluxcd.io_helmreleases.yaml"),
    ]


def programs() -> tuple[Path, Path]:
    """Both programs, built now if they are nowhere yet; a visible skip where they cannot be."""
    try:
        return toolchain.path("source-controller"), toolchain.path("helm-controller")
    except toolchain.ToolchainError as error:
        pytest.skip(f"Flux cannot be built here: {error}")


def examples() -> list[Object]:
    """Every object of a GitOps controller that docs/gitops.md shows, as it stands there."""
    text = (product.ROOT / "docs" / "gitops.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    found = [o for block in blocks for o in yaml.safe_load_all(block)]
    return [o for o in found if "apiVersion" in o]


def define(kube: Any, wanted: list[Object]) -> list[str]:
    """Give the cluster these kinds, unless it has them; the names of those that it did not have."""
    there = kube.kubectl("get", "crd", "-o", "name")
    missing = [crd for crd in wanted if crd["metadata"]["name"] not in there]
    if missing:
        # Some are larger than the annotation of a client-side apply may be.
        kube.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(missing))
        names = [f"crd/{crd['metadata']['name']}" for crd in missing]
        kube.kubectl("wait", "--for=condition=Established", "--timeout=90s", *names)
    return [crd["metadata"]["name"] for crd in missing]


class Flux:
    """Both controllers at work, and the chart in a repository that they can reach. Use as a context manager."""

    def __init__(self, lab: Cluster, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.binaries = programs()
        self.defined = define(lab, flux_definitions())
        self.address = lab.add_host(HOST, NUMBER).v4
        self.repository = f"http://{self.address}:{CHARTS}"

    def __enter__(self) -> Flux:
        charts = self.folder / "charts"
        charts.mkdir()
        shutil.copytree(product.CHART, self.folder / "metallb", dirs_exist_ok=True)
        self.lab.helm("package", str(self.folder / "metallb"), "--destination", str(charts))
        self.lab.helm("repo", "index", str(charts), "--url", self.repository)
        # The machine's own door to the API is not there in the host's network.
        config = yaml.safe_load(self.lab.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = "https://172.18.0.2:6443"
        path = self.folder / "kubeconfig"
        path.write_text(json.dumps(config))
        env = {"KUBECONFIG": str(path), "RUNTIME_NAMESPACE": product.NAMESPACE, "TUF_ROOT": str(self.folder / "tuf"),
               "TMPDIR": str(self.folder), "HOME": str(self.folder)}  # fmt: skip
        source, helm = map(str, self.binaries)
        web = [sys.executable, "-m", "http.server", "--bind", self.address, "--directory", str(charts), str(CHARTS)]
        self.lab.spawn("charts", HOST, *web)
        data = self.folder / "data"
        data.mkdir()
        where = [f"--storage-path={data}", f"--storage-addr=:{ARTIFACTS}"]
        where += [f"--storage-adv-addr={self.address}:{ARTIFACTS}", "--metrics-addr=:8081", "--health-addr=:9441"]
        self.lab.spawn("source-controller", HOST, source, "--watch-all-namespaces", *where, environment=env)
        self.lab.spawn("helm-controller", HOST, helm, "--watch-all-namespaces", environment=env)
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("helm-controller", "source-controller", "charts"):
            self.lab.processes.forget(name)
        self.lab.remove_host(HOST)
        for kind in ("helmreleases", "helmcharts", "helmrepositories"):
            # Their finalizers are for controllers that are gone.
            for name in self.lab.kubectl("-n", product.NAMESPACE, "get", kind, "-o", "name").split():
                self.lab.kubectl("-n", product.NAMESPACE, "patch", name, "--type=merge", "-p",
                                 '{"metadata":{"finalizers":null}}')  # fmt: skip
                self.lab.kubectl("-n", product.NAMESPACE, "delete", name, "--ignore-not-found", "--wait=false")
        if self.defined:
            self.lab.kubectl("delete", "crd", *self.defined, "--wait=false")

    # --- one HelmRelease, `metallb` ---------------------------------------------------------------

    def release(self) -> Object:
        return self.lab.json("-n", product.NAMESPACE, KIND, "metallb")

    def condition(self, kind: str) -> Object:
        """A condition that speaks of the object as it is now; empty if there is none yet."""
        found = self.release()
        for one in found.get("status", {}).get("conditions", []):
            if one["type"] == kind and one.get("observedGeneration") == found["metadata"]["generation"]:
                return dict(one)
        return {}

    def ready(self, status: str = "True", timeout: float = 180.0) -> Object:
        """Wait until the release is ready and rests (or, with "False", has failed); its condition."""

        def rests() -> bool:
            busy = status == "True" and self.condition("Reconciling")
            return self.condition("Ready").get("status") == status and not busy

        try:
            self.lab.wait(f"the HelmRelease has Ready={status}", rests, timeout, every=0.5)
        except ClusterError as error:
            log = self.lab.processes.log("helm-controller").read_text()[-3000:]
            status_now = json.dumps(self.release().get("status", {}).get("conditions"), indent=1)
            raise AssertionError(f"{error}\n{status_now}\n{log}") from None
        return self.condition("Ready")

    def patch(self, **spec: Any) -> None:
        """A merge into the release's spec: what a commit to its repository does."""
        self.lab.kubectl("-n", product.NAMESPACE, "patch", KIND, "metallb", "--type=merge", "-p",
                         json.dumps({"spec": spec}))  # fmt: skip

    def values(self, values: Object) -> None:
        """Replace the values whole."""
        edit = [{"op": "replace", "path": "/spec/values", "value": values}]
        self.lab.kubectl("-n", product.NAMESPACE, "patch", KIND, "metallb", "--type=json", "-p", json.dumps(edit))

    def reconcile(self) -> None:
        """`flux reconcile helmrelease metallb`: now, not at the next interval."""
        asked = str(time.time_ns())
        self.lab.kubectl("-n", product.NAMESPACE, "annotate", "--overwrite", KIND, "metallb",
                         f"reconcile.fluxcd.io/requestedAt={asked}")  # fmt: skip
        self.lab.wait(
            "the release was reconciled",
            lambda: self.release().get("status", {}).get("lastHandledReconcileAt") == asked and self.ready(),
            60,
        )
