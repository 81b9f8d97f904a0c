"""`make package`, and what users do with the result: install from a chart repository, and from an OCI registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster import registry, toolchain
from tests.cluster.client import KubeClient
from tests.cluster.controlplane import free_port
from tests.e2e import product

pytestmark = pytest.mark.cluster

VERSION = yaml.safe_load((product.CHART / "Chart.yaml").read_text())["version"]


def package(**variables: str) -> list[Path]:
    """What `make package` runs; the files that it names."""
    script = product.ROOT / "tests" / "package.sh"
    told = subprocess.run(["bash", script], env=os.environ | variables, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return [product.ROOT / line for line in told.stdout.split()]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The package and its index on a web server, as `make package` leaves them."""
    folder = tmp_path_factory.mktemp("charts")
    package(OUT=str(folder))
    port = free_port()
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            where = f"http://127.0.0.1:{port}"
            limit = time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(f"{where}/index.yaml", timeout=5).close()
                    break
                except OSError:
                    assert time.monotonic() < limit, "the web server does not answer"
                    time.sleep(0.05)
            yield where
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def oci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The package in a registry."""
    with registry.local(tmp_path_factory.mktemp("registry"), free_port()) as address:
        where = f"oci://{address}/charts"
        package(OUT=str(tmp_path_factory.mktemp("package")), PUSH=where, PUSH_OPTIONS="--plain-http")
        yield where


@pytest.mark.parametrize("program", ["helm", "helm4"])
@pytest.mark.parametrize("source", ["repository", "oci"])
def test_installed_from(
    source: str,
    program: str,
    kube_with_images: KubeClient,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tally: Callable[[str, int], None],
) -> None:
    """Down to a Service that gets an address, with a Helm that knows nothing of this tree."""
    kube = kube_with_images
    where: str = request.getfixturevalue(source)
    homes = {f"HELM_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("CONFIG", "CACHE", "DATA")}

    def helm(*arguments: str, given: str | None = None) -> str:
        told = subprocess.run(
            [str(toolchain.path(program)), *arguments],
            input=given, env=kube.environment | homes, cwd=tmp_path, capture_output=True, text=True, check=False,
            timeout=240,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        return told.stdout

    product.clean(kube)
    if source == "repository":
        helm("repo", "add", "metallb", where)
        chart = ["metallb/metallb"]
    else:
        chart = [f"{where}/metallb", "--plain-http"]
    try:
        install = ["install", "metallb", *chart, "--version", VERSION, "-n", product.NAMESPACE, "--create-namespace"]
        values = json.dumps(product.given(product.layer2()))
        said = helm(*install, "-f", "-", "--wait", "--timeout", "180s", given=values)
        assert f"metallb {VERSION} is installed as metallb in namespace {product.NAMESPACE}." in said
        product.apps(kube, [])
        [[address]] = product.expose(kube, product.service("delivered"))
        assert address == product.POOL_V4.partition("-")[0]
        tally("installed from a chart repository, from an OCI registry; by Helm 3 and 4", 1)
    finally:
        product.clean(kube)
