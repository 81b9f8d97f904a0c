"""The clusters of the end-to-end tests: one embedded cluster for the whole session, or the user's own.

With KUBECONFIG in the environment the tests use that cluster, as far as they can; the rest is skipped, visibly.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, ClusterError, images, toolchain
from tests.cluster.client import KubeClient

#: Names for this session's instances: the first that no other session on this machine uses.
NAMES = ("e2e", "e2eb", "e2ec", "e2ed")
#: Each session may also start a second instance, named so.
SECOND = "x2"

OWN_CLUSTER = "KUBECONFIG" in os.environ


@pytest.fixture(scope="session")
def session_name() -> Iterator[str]:
    """A name for instances that is this session's alone; what a killed session left under it is removed."""
    toolchain.cache().mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        with open(toolchain.cache() / f".{name}.session", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            for left in (name, name + SECOND):
                Cluster(left).down()
            yield name
            return
    raise ClusterError(f"{len(NAMES)} sessions of end-to-end tests run already on this machine")


@pytest.fixture(scope="session")
def cluster(session_name: str, _needs_embedded: None) -> Iterator[Cluster]:
    """The embedded cluster: three nodes, dual-stack. It ends with the session, however that ends."""
    one = Cluster(session_name)
    try:
        yield one.up()
    finally:
        one.down()


@pytest.fixture(scope="session")
def _needs_embedded() -> None:
    if OWN_CLUSTER:
        pytest.skip("needs the embedded cluster (its hosts, cables, processes); KUBECONFIG names another")
    if os.geteuid() != 0:
        pytest.skip("needs root: the embedded cluster is made of network namespaces")


@pytest.fixture(scope="session")
def kube(request: pytest.FixtureRequest) -> KubeClient:
    """A user's view of a cluster: of the one that KUBECONFIG names, else of the embedded one."""
    if OWN_CLUSTER:
        return KubeClient(Path(os.environ["KUBECONFIG"]))
    embedded: Cluster = request.getfixturevalue("cluster")
    return embedded


@pytest.fixture(scope="session")
def kube_with_images(kube: KubeClient) -> KubeClient:
    """A cluster whose nodes can run our images: loaded into the embedded one; in the registry that the user names."""
    if OWN_CLUSTER:
        if not os.environ.get("METALLB_IMAGE_REGISTRY"):
            pytest.skip(
                "your cluster needs our images: push them, and set METALLB_IMAGE_REGISTRY=registry.example:5000"
            )
        return kube
    assert isinstance(kube, Cluster)
    load_images(kube)
    return kube


@pytest.fixture(scope="session")
def lab(cluster: Cluster, kube_with_images: KubeClient) -> Cluster:
    """The embedded cluster with our images on every node."""
    assert kube_with_images is cluster
    return cluster


def load_images(cluster: Cluster) -> None:
    """Our images, built if the tree has changed, onto every node."""
    cluster.load(*images.build(lambda text: print(f"images: {text}", file=sys.stderr)).values())
