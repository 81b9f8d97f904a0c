"""The embedded cluster itself: it is a real one, several fit on a machine, and nothing of it stays."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, ClusterError, cgroups, guests
from tests.cluster.plan import url_host
from tests.e2e.conftest import SECOND

pytestmark = [pytest.mark.root, pytest.mark.cluster]

TUNABLES = ("/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/panic", "/proc/sys/kernel/panic_on_oops")


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> Iterator[dict[str, dict[str, str]]]:
    """A backend on every node and a dual-stack Service `web`; node -> its pod's name and addresses by family."""
    namespace = "clustertest"
    labels = {"app": "web"}
    container = {
        "name": "web",
        "image": guests.GUEST,
        "args": ["web", "8080"],
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "resources": {"limits": {"cpu": "100m", "memory": "100Mi"}},
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    }
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {"selector": {"matchLabels": labels}, "template": pod},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {
                "selector": labels,
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [{"port": 80, "targetPort": 8080}],
            },
        },
    )
    cluster.kubectl("-n", namespace, "rollout", "status", "ds/web", "--timeout=180s")
    found = {}
    for one in cluster.pods(namespace, "app=web"):
        addresses = [a["ip"] for a in one["status"]["podIPs"]]
        found[one["spec"]["nodeName"]] = {
            "pod": one["metadata"]["name"],
            "v4": next(a for a in addresses if ":" not in a),
            "v6": next(a for a in addresses if ":" in a),
        }
    yield found
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def test_every_node_is_ready_and_says_the_pinned_version(cluster: Cluster) -> None:
    nodes = {n["metadata"]["name"]: n["status"] for n in cluster.json("nodes")["items"]}
    assert set(nodes) == {"node1", "node2", "node3"} == cluster.api.ready_nodes()
    for number, status in enumerate(nodes.values(), 1):
        assert status["nodeInfo"]["kubeletVersion"].startswith("v1.")
        internal = [a["address"] for a in status["addresses"] if a["type"] == "InternalIP"]
        assert internal == [f"172.18.0.1{number}", f"fd00:172:18::1{number}"]


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_pods_of_all_nodes_reach_each_other(cluster: Cluster, web: dict[str, dict[str, str]], family: str) -> None:
    assert set(web) == set(cluster.nodes)
    for source, here in web.items():
        for target, there in web.items():
            url = f"http://{url_host(there[family])}:8080/"
            page = cluster.run_in_pod(source, here["pod"], "web", "curl", "-gsS", "-m", "5", url).stdout
            assert f"node={target}\n" in page
            assert f"client={here[family]}\n" in page, "between pods no address is translated"


@pytest.mark.parametrize("family", [0, 1])
def test_kube_proxy_balances_a_service_over_all_backends(
    cluster: Cluster, web: dict[str, dict[str, str]], family: int
) -> None:
    address = cluster.json("-n", "clustertest", "service", "web")["spec"]["clusterIPs"][family]
    cluster.wait("kube-proxy knows the Service", lambda: cluster.fetch(address, host="node1"), 15)
    seen = {re.findall(r"^node=(.*)$", cluster.fetch(address, host="node1"), re.MULTILINE)[0] for _ in range(40)}
    assert seen == set(web)
    # From a pod, to itself among others: both directions pass kube-proxy's translation.
    url = f"http://{url_host(address)}/"
    for _ in range(12):
        cluster.run_in_pod("node2", web["node2"]["pod"], "web", "curl", "-gsS", "-m", "5", url)


def test_limits_of_containers_hold(cluster: Cluster, web: dict[str, dict[str, str]]) -> None:
    group = Path(f"/proc/{cluster.container_pid('node1', web['node1']['pod'], 'web')}/cgroup").read_text()
    paths = dict(line.split(":", 2)[1:] for line in group.splitlines())
    if cgroups.unified():
        folder = Path("/sys/fs/cgroup" + paths[""])
        assert (folder / "memory.max").read_text().strip() == str(100 << 20)
        assert (folder / "cpu.max").read_text().split() == ["10000", "100000"]
    else:
        memory = Path("/sys/fs/cgroup/memory" + paths["memory"])
        assert (memory / "memory.limit_in_bytes").read_text().strip() == str(100 << 20)
        cpu = next(Path("/sys/fs/cgroup") / c / p.lstrip("/") for c, p in paths.items() if "cpu" in c.split(","))
        assert (cpu / "cpu.cfs_quota_us").read_text().strip() == "10000"


def test_a_killed_container_comes_back(cluster: Cluster, web: dict[str, dict[str, str]]) -> None:
    before = cluster.container_pid("node3", web["node3"]["pod"], "web")
    subprocess.run(["kill", "-9", str(before)], check=True)
    cluster.wait(
        "another process in its place",
        lambda: cluster.container_pid("node3", web["node3"]["pod"], "web") != before,
        30,
    )


def test_cables_and_lossy_ways(cluster: Cluster) -> None:
    assert cluster.owners("172.18.0.12") == ["node2"] == cluster.owners("fd00:172:18::12")
    cluster.power_off("node2")
    try:
        assert cluster.owners("172.18.0.12") == [] == cluster.owners("fd00:172:18::12")
    finally:
        cluster.power_on("node2")
    try:
        cluster.fabric.drop("node2", "client", "ether type arp")
        assert cluster.owners("172.18.0.12") == []
        assert cluster.owners("fd00:172:18::12") == ["node2"]
        assert cluster.owners("172.18.0.12", host="registry") == ["node2"]
    finally:
        cluster.fabric.heal()
    assert cluster.owners("172.18.0.12") == ["node2"]


def test_a_host_is_added_and_removed_and_added_again(cluster: Cluster) -> None:
    for _ in range(2):
        host = cluster.add_host("guest", 30)
        cluster.run_in("client", "ping", "-c1", "-W5", host.v4)
        cluster.run_in("client", "ping", "-c1", "-W5", host.v6)
        cluster.remove_host("guest")
        assert "guest" not in cluster.fabric.hosts()
        assert cluster.run_in("client", "ping", "-c1", "-W1", host.v4, check=False).returncode


def test_the_api_server_goes_and_comes_back(cluster: Cluster, web: dict[str, dict[str, str]]) -> None:
    with cluster.probe("172.18.0.11", port=10256, path="/healthz", every=0.1, timeout=5) as probe:
        cluster.pause("etcd")
        assert not cluster.api.ready()
        cluster.resume("etcd")
        cluster.stop("kube-apiserver")
        assert not cluster.api.ready()
        cluster.start("kube-apiserver")
        cluster.wait("the API server is ready", cluster.api.ready, 30)
        report = probe.report()
    assert len(report.attempts) > 5
    assert report.longest == 0, f"kube-proxy's own answer depends on no API server: {report.failures}"


def test_up_twice_is_fine_and_other_sizes_are_refused(cluster: Cluster) -> None:
    pid = cluster.processes.pid("kube-apiserver")
    start = time.monotonic()
    cluster.up()
    assert time.monotonic() - start < 60
    assert cluster.processes.pid("kube-apiserver") == pid
    with pytest.raises(ClusterError, match="run down first for 1 node"):
        Cluster(cluster.name, nodes=1).up()


def left_of(name: str) -> list[str]:
    """Everything on this machine that belongs to an instance."""
    found = [str(p) for p in Path("/run/netns").glob(f"mlb-{name}-*")]
    found += [str(p) for h in cgroups.hierarchies() for p in h.glob(f"mlb-{name}")]
    folder = Cluster(name).instance.folder
    found += [str(folder)] if folder.exists() else []
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if f"{folder}/" in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        found += [f"process {process.name}: {words[0].decode()}"] * any(f"{folder}/".encode() in w for w in words)
    return found


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.cluster", *arguments]


def test_a_killed_start_is_followed_by_a_good_one_beside_another_cluster(cluster: Cluster, session_name: str) -> None:
    """kill -9 in the middle, `up` again, both clusters up with the same addresses, then no trace of the second."""
    name = session_name + SECOND
    settings = [Path(t).read_text() for t in TUNABLES]
    up = command("up", "--name", name, "--nodes", "1", "--ip-family", "ipv6")
    try:
        with subprocess.Popen(up, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as killed:
            assert killed.stderr is not None
            for line in killed.stderr:
                if "starting the API server" in line:
                    break
            time.sleep(1)  # etcd, the API server and containerd run
            killed.send_signal(signal.SIGKILL)
        assert left_of(name)
        with pytest.raises(ClusterError, match="not brought up completely"):
            Cluster.attach(name)
        subprocess.run(up, check=True, stdout=subprocess.DEVNULL, timeout=400)
        other = Cluster.attach(name)
        assert (other.nodes, other.api.ready_nodes()) == (["node1"], {"node1"})
        assert cluster.api.ready_nodes() == set(cluster.nodes)
        # The same host name and address in both, and two different machines behind it.
        assert other.owners("fd00:172:18::11") == ["node1"] == cluster.owners("fd00:172:18::11")
        assert other.owners("fd00:172:18::12") == []
        assert "inet 1" not in other.run_in("node1", "ip", "addr", "show", "eth0").stdout, "IPv6 only"
    finally:
        subprocess.run(command("down", "--name", name), check=True, timeout=180)
    assert left_of(name) == []
    assert [Path(t).read_text() for t in TUNABLES] == settings, "the machine's settings are as they were"
    assert cluster.api.ready_nodes() == set(cluster.nodes), "the other cluster took no notice"


def test_an_interrupted_start_takes_back_what_it_made(session_name: str, cluster: Cluster) -> None:
    name = session_name + SECOND
    with subprocess.Popen(
        command("up", "--name", name, "--nodes", "1"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as interrupted:
        assert interrupted.stderr is not None
        for line in interrupted.stderr:
            if "starting the API server" in line:
                break
        interrupted.send_signal(signal.SIGINT)
        said = interrupted.stderr.read()
    assert interrupted.returncode == 130, said
    assert left_of(name) == []


def test_the_command_line_says_what_is_wrong() -> None:
    for arguments, expected in (
        (["status", "--name", "nobody"], "no cluster 'nobody' is up"),
        (["up", "--name", "Not-A-Name"], "must be 1 to 12 lower-case letters"),
    ):
        told = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
        assert told.returncode == 1
        assert expected in told.stderr
        assert "Traceback" not in told.stderr
