"""A release from its beginning to its end, with Helm 3 and Helm 4; `helm test`; chart-testing's install and upgrade."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import Cluster, toolchain
from tests.e2e import product
from tests.e2e.bird import Bird, config

pytestmark = pytest.mark.cluster

N = ("-n", product.NAMESPACE)


@pytest.fixture(autouse=True)
def _clean(lab: Cluster) -> Iterator[None]:
    product.clean(lab)
    yield
    # A failed `helm test` leaves its objects to be looked at.
    of_test = "pod,service,serviceaccount,role,rolebinding"
    lab.kubectl(*N, "delete", of_test, "-l", "app.kubernetes.io/component=test", "--ignore-not-found")
    product.clean(lab)


def document(lab: Cluster) -> Any:
    return yaml.safe_load(lab.json(*N, "configmap", "metallb")["data"]["config"])


def uids(lab: Cluster) -> set[str]:
    return {p["metadata"]["uid"] for c in product.BY_HELM.values() for p in product.pods(lab, c)}


@pytest.mark.parametrize("program", ["helm", "helm4"])
def test_install_test_upgrade_roll_back_uninstall(
    lab: Cluster, program: str, tally: Callable[[str, int], None]
) -> None:
    first, second = product.layer2(), product.layer2("172.18.0.150-172.18.0.160")

    def release(verb: str, config: Any) -> None:
        command = [verb, "metallb", str(product.CHART), *N, "-f", "-", "--wait", "--timeout", "180s"]
        if verb == "install":
            command.append("--create-namespace")
        lab.tool(program, *command, input=json.dumps({"configInline": config}), timeout=240)

    release("install", first)
    tested = lab.tool(program, "test", "metallb", *N, "--timeout", "120s", timeout=180)
    assert re.search(r"Phase:\s+Succeeded", tested.stdout)
    left = lab.json(*N, "pod,service,role", "-l", "app.kubernetes.io/component=test")["items"]
    assert left == [], "a test that succeeded leaves nothing"
    pods = uids(lab)
    release("upgrade", second)
    assert document(lab) == second
    lab.tool(program, "rollback", "metallb", "1", *N, "--wait", "--timeout", "180s", timeout=240)
    assert document(lab) == first
    assert uids(lab) == pods, "a change of configuration restarted a pod"
    lab.tool(program, "uninstall", "metallb", *N, "--wait", timeout=240)
    lab.wait("no pods", lambda: not lab.json(*N, "pods")["items"], 60)
    tally("Helm versions that install, test, upgrade, roll back, uninstall", 1)


def test_helm_test_fails_when_no_address_answers(lab: Cluster) -> None:
    """A pool of which every address is excluded gives nothing: the test must say so rather than pass."""
    product.install(lab, product.layer2(**{"exclude-addresses": [product.POOL_V4, product.POOL_V6]}))
    told = lab.tool("helm", "test", "metallb", *N, "--logs", "--timeout", "120s", timeout=180, check=False)
    assert told.returncode != 0
    assert "no address after 50 s" in told.stdout + told.stderr


@pytest.mark.root
def test_helm_test_asks_the_speakers_whether_the_peer_has_the_route(lab: Cluster, tmp_path: Path) -> None:
    """The node's own kube-proxy answers for the address all the while: without a peer the test must fail."""
    test = ["test", "metallb", *N, "--timeout", "280s"]
    router = Bird(lab, tmp_path)
    try:
        product.install(lab, config(router.address), peerPasswordSecrets=["locked"])
        lab.tool("helm", *test, timeout=300)
    finally:
        router.close()
    told = lab.tool("helm", *test, "--logs", timeout=300, check=False)
    said = told.stdout + told.stderr
    assert told.returncode != 0, said
    assert "no announcement of 10.200.0.1 after 50 s" in said
    assert f"no BGP session is up that carries it: {router.address} ({router.address}:179) is " in said


def install_with_ct(lab: Cluster, folder: Path, files: list[str]) -> str:
    """`ct install --upgrade` with these files of chart/ci, in a repository of its own that holds the tree's chart."""
    work, origin = folder / "work", folder / "origin.git"
    shutil.copytree(product.CHART, work / "chart")
    shutil.copy(product.ROOT / "ct.yaml", work)
    for path in (work / "chart" / "ci").iterdir():
        if path.name.removesuffix("-values.yaml") not in files:
            path.unlink()

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        subprocess.run(["git", *identity, *arguments], cwd=work, check=True, timeout=60, capture_output=True)

    # The previous revision is main's, and one more commit the change that ct notices.
    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-q", "-m", "before")
    git("clone", "-q", "--bare", ".", str(origin))
    git("remote", "add", "origin", str(origin))
    git("fetch", "-q", "origin")
    git("checkout", "-q", "-b", "change")
    with open(work / "chart" / "Chart.yaml", "a") as about:
        about.write("# changed\n")
    git("commit", "-q", "-a", "-m", "change")
    command = [str(toolchain.path("ct")), "install", "--config", "ct.yaml", "--charts", "chart", "--upgrade"]
    command += ["--namespace", product.NAMESPACE, "--release-label", "app.kubernetes.io/instance"]
    env: dict[str, str] = dict(os.environ) | lab.environment
    told = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, check=False, timeout=1500)
    assert told.returncode == 0, (told.stdout + told.stderr)[-4000:]
    return told.stdout + told.stderr


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(["02-layer2"], id="one"),
        pytest.param(
            [p.name.removesuffix("-values.yaml") for p in sorted((product.CHART / "ci").iterdir())],
            id="all",
            marks=pytest.mark.accept,
        ),
    ],
)
def test_chart_testing_installs_and_upgrades(
    lab: Cluster, tmp_path: Path, files: list[str], tally: Callable[[str, int], None]
) -> None:
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": product.NAMESPACE}})
    for name in ("peer-two", "site-bgp"):
        lab.kubectl(*N, "create", "secret", "generic", name, "--from-literal=md5=x")
    try:
        said = install_with_ct(lab, tmp_path, files)
    finally:
        lab.kubectl(*N, "delete", "secret", "peer-two", "site-bgp", "--ignore-not-found")
    assert "All charts installed successfully" in said
    for name in files:
        assert f"{name}-values.yaml" in said
        tally("ct install --upgrade: files of values", 1)
