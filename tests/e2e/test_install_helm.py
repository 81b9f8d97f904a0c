"""Helm: install, an address that a client reaches, a change of the configuration without a restart, uninstall."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.cluster.client import KubeClient
from tests.e2e import product

pytestmark = pytest.mark.cluster  # root only where the embedded cluster is used, which says so itself

NET_RAW = 1 << 13  # linux/capability.h


@pytest.fixture(scope="module")
def installed(kube_with_images: KubeClient) -> Iterator[KubeClient]:
    product.clean(kube_with_images)
    product.install(kube_with_images, product.layer2())
    product.apps(kube_with_images, [])
    yield kube_with_images
    product.remove(kube_with_images, "--all")


def test_a_service_gets_an_address_and_says_so(installed: KubeClient) -> None:
    start = time.monotonic()
    [[address]] = product.expose(installed, product.service("first"))
    assert time.monotonic() - start < 30
    assert address == product.POOL_V4.partition("-")[0], "the first of the pool"
    installed.wait(
        "the event IPAllocated",
        lambda: "IPAllocated" in [e["reason"] for e in product.events(installed, "Service", "first", product.APP)],
        10,
    )
    product.remove(installed, "first")


def test_a_changed_configuration_counts_at_once_and_restarts_nothing(installed: KubeClient) -> None:
    before = {p["metadata"]["uid"] for c in product.BY_HELM.values() for p in product.pods(installed, c)}
    wider = product.layer2()
    wider["address-pools"].append(
        {"name": "second", "protocol": "layer2", "addresses": ["172.18.0.190/32"], "auto-assign": False}
    )
    product.edit_config(installed, wider)
    try:
        wanted = product.service("chosen", loadBalancerIP="172.18.0.190")
        assert product.expose(installed, wanted) == [["172.18.0.190"]]
    finally:
        product.remove(installed, "chosen")
        product.edit_config(installed, product.layer2())
    after = {p["metadata"]["uid"] for c in product.BY_HELM.values() for p in product.pods(installed, c)}
    assert after == before
    assert [product.restarts(installed, c) for c in product.BY_HELM.values()] == [0, 0]


def test_a_client_outside_the_cluster_reaches_the_address(lab: Cluster, installed: KubeClient) -> None:
    product.apps(lab, [product.backend("one")])
    [found] = product.expose(lab, product.service("reached", "one", **product.DUAL))
    assert len(found) == 2
    for address in found:
        lab.wait(f"the page at {address}", lambda address=address: lab.fetch(address), 15)
        assert "pod=one-" in lab.fetch(address)
    product.remove(lab, "reached")


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_processes_hold_no_more_rights_than_they_need(lab: Cluster, installed: KubeClient) -> None:
    def process(selector: str, container: str) -> int:
        pod = product.pods(lab, selector)[0]
        return lab.container_pid(pod["spec"]["nodeName"], pod["metadata"]["name"], container)

    announcer = process(product.BY_HELM["speaker"], "speaker")
    half = process(product.BY_HELM["speaker"], "cluster")
    controller = process(product.BY_HELM["controller"], "controller")
    token = "root/var/run/secrets/kubernetes.io/serviceaccount/token"
    for pid, capabilities, root, holds_token in (
        (announcer, NET_RAW, True, False),
        (half, 0, False, True),
        (controller, 0, False, True),
    ):
        status = status_of(pid)
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == capabilities
        assert int(status["CapBnd"], 16) == capabilities
        assert status["NoNewPrivs"] == "1"
        assert (status["Uid"].split()[1] == "0") is root
        assert Path(f"/proc/{pid}/{token}").exists() is holds_token
        mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        [options] = [line.split()[5] for line in mounts if line.split()[4] == "/"]
        assert "ro" in options.split(",")
        for tool in ("usr/bin/gcc", "usr/bin/cc", "usr/bin/make", "usr/bin/apt-get"):
            assert not Path(f"/proc/{pid}/root/{tool}").exists()


def test_everything_stays_alive_at_small_limits(lab: Cluster, installed: KubeClient) -> None:
    """100m CPU and 100Mi per container, as values files of real clusters set; through `helm upgrade`."""
    small = {"resources": {"limits": {"cpu": "100m", "memory": "100Mi"}}}
    values = {"controller": small, "speaker": small}
    start = time.monotonic()
    lab.helm("upgrade", "metallb", str(product.CHART), "-n", product.NAMESPACE, "--reuse-values", "-f", "-", "--wait",
             "--timeout", "240s", input=json.dumps(values))  # fmt: skip
    print(f"\nrolled out under the limits in {time.monotonic() - start:.0f} s")
    [[address]] = product.expose(lab, product.service("limited", "one"))
    lab.wait("the page", lambda: "pod=one-" in lab.fetch(address), 30)
    for component, selector in product.BY_HELM.items():
        assert product.restarts(lab, selector) == 0
        for pod in product.pods(lab, selector):
            for container in pod["spec"]["containers"]:
                assert container["resources"]["limits"] == small["resources"]["limits"]
                pid = lab.container_pid(pod["spec"]["nodeName"], pod["metadata"]["name"], container["name"])
                peak = int(status_of(pid)["VmHWM"].split()[0]) // 1024
                print(f"{component} {container['name']}: {peak} MiB at most")
    product.remove(lab, "limited")


def test_uninstall_leaves_nothing_and_a_new_install_works_at_once(installed: KubeClient) -> None:
    installed.helm("uninstall", "metallb", "-n", product.NAMESPACE, "--wait")
    of_ours = (
        "secret,configmap,lease,pod,deployment,daemonset,serviceaccount,role,rolebinding",
        "clusterrole,clusterrolebinding",
    )

    def left() -> list[str]:
        found = [n for k in of_ours for n in installed.kubectl("-n", product.NAMESPACE, "get", k, "-o", "name").split()]
        return [name for name in found if "metallb" in name]

    # What the controller made goes with its owner, the Deployment, as soon as the garbage collector has seen that.
    installed.wait("nothing of ours is left", lambda: left() == [], 30)
    product.install(installed, product.layer2())
    [[address]] = product.expose(installed, product.service("again"))
    assert address == product.POOL_V4.partition("-")[0]
    product.remove(installed, "again")
