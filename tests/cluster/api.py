"""The cluster as tests and the demo use it: `Cluster`. Every method raises ClusterError with what went wrong."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

from tests.cluster import lifecycle, node
from tests.cluster.client import KubeClient
from tests.cluster.fabric import Fabric
from tests.cluster.instance import ClusterError, Instance, until
from tests.cluster.kubeapi import KubeApi
from tests.cluster.node import NodeFiles
from tests.cluster.observe import Observer
from tests.cluster.plan import Family, Host, Node, Plan
from tests.cluster.processes import Processes, Program, stopped


class Cluster(KubeClient, Observer):
    """A named instance. Making the object starts nothing; `up` does, `attach` finds a running one.

    Hosts: ``cp``, ``client`` (outside the cluster), ``registry``, ``node1``...; see `plan` for addresses.
    As a user: `client.KubeClient` (kubectl, helm, apply, json, wait). From outside: `observe.Observer` (who answers ARP
    and NDP, pages, outages).
    """

    def __init__(self, name: str = "", *, nodes: int = 3, family: str | Family = Family.DUAL) -> None:
        self.instance = Instance.named(name)
        self.plan = Plan(nodes, Family(family))
        super().__init__(self.instance.kubeconfig)

    @classmethod
    def attach(cls, name: str = "") -> Cluster:
        """A cluster that is up. Raises ClusterError if there is none of that name (default: $METALLB_CLUSTER, dev)."""
        plan, complete = Instance.named(name).read()
        if not complete:
            raise ClusterError(f"cluster {Instance.named(name).name!r} was not brought up completely: run up")
        return cls(name, nodes=plan.nodes, family=plan.family)

    # --- life -----------------------------------------------------------------------------------

    def up(self) -> Cluster:
        """Start it (or leave it alone if it is up). Seconds when warm; the first time builds programs."""
        lifecycle.up(self.instance, self.plan)
        self.__dict__.pop("api", None)  # a new start has new certificates and another port
        return self

    def down(self) -> None:
        """End it and remove all that belongs to it. Fine if there is nothing."""
        lifecycle.down(self.instance)

    @property
    def name(self) -> str:
        return self.instance.name

    @property
    def nodes(self) -> list[str]:
        return [n.name for n in self.plan.node_hosts]

    # --- as a user: kubectl, helm, apply, json, wait are KubeClient's -------------------------------

    @cached_property
    def api(self) -> KubeApi:
        """Plain requests to the API: quicker than kubectl when polling."""
        return KubeApi(self.kubeconfig)

    def load(self, *archives: str | Path) -> None:
        """Import docker or OCI archives into every node."""
        with ThreadPoolExecutor(max_workers=2) as pool:
            jobs = [(f, lifecycle.binary("ctr"), Path(a)) for a in archives for f in self._files()]
            list(pool.map(lambda job: node.load(*job), jobs))

    # --- inside hosts ---------------------------------------------------------------------------

    def inside(self, host: str) -> list[str]:
        """The command prefix that runs a program in a host (for a node: with the node's /run and /var/lib)."""
        mounts = f"{host}-mounts" if host in self.nodes else ""
        return self.processes.enter(host, mounts_of=mounts)

    def run_in(
        self, host: str, *argv: str, input: str | None = None, timeout: float = 60.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a host and wait for it; `check=False` to look at a failure oneself."""
        told = subprocess.run(
            [*self.inside(host), *argv], input=input, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and told.returncode:
            raise ClusterError(f"{host}: {' '.join(argv)} ended with {told.returncode}: {told.stderr.strip()}")
        return told

    def popen_in(self, host: str, *argv: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a program in a host; `options` as for subprocess.Popen. The caller ends it."""
        return subprocess.Popen([*self.inside(host), *argv], **options)

    def add_host(self, name: str, number: int) -> Host:
        """One more host on the switch (a router, say): addresses 172.18.0.NUMBER and fd00:172:18::NUMBER."""
        host = Host(name, number)
        self.fabric.add_host(self.plan, host, router=True)
        return host

    def remove_host(self, name: str) -> None:
        """Undo `add_host`. End what was spawned in it before: `processes.forget`."""
        self.fabric.remove_host(name)

    def spawn(self, name: str, host: str, *argv: str, environment: dict[str, str] | None = None) -> int:
        """Start a long-running program in a host as a part of the cluster: it ends with `down`. Its process id."""
        return self.processes.start(Program(name, host, list(argv), environment=environment or {}))

    # --- faults ---------------------------------------------------------------------------------

    @cached_property
    def fabric(self) -> Fabric:
        """The switch: `cable`, `drop` (from host to host, by nft match, by percent), `heal`."""
        return Fabric(self.instance)

    @cached_property
    def processes(self) -> Processes:
        """etcd, kube-apiserver, kube-controller-manager, kube-scheduler; NODE-containerd, -kubelet, -proxy."""
        return Processes(self.instance)

    def power_off(self, host: str) -> None:
        """Pull the host's cable. Nobody reaches it or hears from it; its processes do not know why."""
        self.fabric.cable(host, plugged=False)

    def power_on(self, host: str) -> None:
        self.fabric.cable(host, plugged=True)

    def pause(self, process: str) -> None:
        """SIGSTOP a process of the cluster, such as ``etcd``, and wait until it stands; `resume` lets it go on."""
        if not self.processes.signal(process, SIGSTOP):
            raise ClusterError(f"{process} does not run")
        pid = self.processes.pid(process)
        until(f"{process} is stopped", lambda: pid is None or stopped(pid), 10, 0.005)

    def resume(self, process: str) -> None:
        if not self.processes.signal(process, SIGCONT):
            raise ClusterError(f"{process} does not run")

    def stop(self, process: str, *, grace: float = 2.0) -> None:
        """End a process of the cluster, such as ``kube-apiserver``; `start` starts it again as it was.

        SIGTERM, and SIGKILL after `grace` seconds (the API server would wait for its last watcher for long).
        """
        self.processes.stop(process, grace)

    def start(self, process: str) -> None:
        self.processes.start(self.processes.program(process))

    def container_pid(self, host: str, pod: str, container: str) -> int:
        """Process id, as the machine counts, of a container's first process: to signal it, or to read /proc."""
        return node.container_pid(self._file(host), lifecycle.binary("ctr"), pod, container)

    def run_in_pod(
        self, host: str, pod: str, container: str, *argv: str, timeout: float = 60.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the machine in a pod's network namespace: images need hold no tools."""
        enter = ["nsenter", f"--net=/proc/{self.container_pid(host, pod, container)}/ns/net", "--"]
        told = subprocess.run([*enter, *argv], capture_output=True, text=True, timeout=timeout, check=False)
        if check and told.returncode:
            raise ClusterError(f"{pod}: {' '.join(argv)} ended with {told.returncode}: {told.stderr.strip()}")
        return told

    def pods(self, namespace: str = "", selector: str = "") -> list[dict[str, Any]]:
        """Pod objects, of all namespaces if none is named."""
        scope = f"/namespaces/{namespace}" if namespace else ""
        query = f"?labelSelector={selector}" if selector else ""
        return list(self.api.get(f"/api/v1{scope}/pods{query}")["items"])

    def _file(self, host: str) -> NodeFiles:
        for files in self._files():
            if files.node.name == host:
                return files
        raise ClusterError(f"{host!r} is no node of {self.name}: {', '.join(self.nodes)}")

    def _files(self) -> Sequence[NodeFiles]:
        return [lifecycle.node_files(self.instance, self.plan, n) for n in self.plan.node_hosts]

    def node(self, name: str) -> Node:
        return self._file(name).node


def instances(base: Path | None = None) -> Iterable[str]:
    """The names of the instances that have state now."""
    folder = base or Instance.named().base
    return sorted(p.parent.name for p in folder.glob("*/instance.json"))
