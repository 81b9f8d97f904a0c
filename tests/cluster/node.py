"""A node: its private folders, containerd, kubelet and kube-proxy.

Each node has a mount namespace of its own, in which /run, /var/lib/kubelet, /var/lib/containerd and /var/log are
folders of the instance. So several kubelets share no path, nothing stays mounted when the last process of the
node is gone, and paths are those of any real node (a hostPath volume finds what it expects).
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster import cgroups
from tests.cluster.instance import ClusterError, Instance
from tests.cluster.pki import Pki
from tests.cluster.plan import REGISTRY, REGISTRY_PORT, Node, Plan, url_host
from tests.cluster.processes import Program

SOCKET = "/run/containerd/containerd.sock"  # inside the node
CNI_PROGRAMS = "/usr/lib/cni"

#: What the kubelet would set for the whole machine. In the node these files are covered by files that hold
#: the wanted value already: the kubelet is content, and the machine keeps its settings.
_TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


_EVICTION_SIGNALS = ("imagefs.available", "nodefs.available", "nodefs.inodesFree", "memory.available")


class NodeFiles:
    """The folder of a node on the machine, and the files in it."""

    def __init__(self, instance: Instance, plan: Plan, node: Node, pki: Pki) -> None:
        self.instance, self.plan, self.node, self.pki = instance, plan, node, pki
        self.folder = instance.folder / node.name
        self.etc = self.folder / "etc"

    @property
    def socket(self) -> Path:
        """containerd's socket, as the machine sees it."""
        return self.folder / SOCKET.removeprefix("/")

    def write(self, sandbox: str, keep: list[Path]) -> None:
        """All configuration. `sandbox`: image of the pod sandbox; `keep`: folders to show in the node as they are."""
        for name in ("run", "kubelet", "containerd", "log", "etc/cni", "etc/certs.d/_default", "etc/proc"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for name, value in _TUNABLES.items():
            (self.etc / "proc" / name.replace("/", "-")).write_text(value + "\n")
        (self.etc / "cni" / "10-pods.conflist").write_text(json.dumps(self._cni()))
        (self.etc / "containerd.toml").write_text(self._containerd(sandbox))
        (self.etc / "certs.d" / "_default" / "hosts.toml").write_text(self._registry())
        (self.etc / "kubelet.json").write_text(json.dumps(self._kubelet(), indent=1))
        (self.etc / "proxy.json").write_text(json.dumps(self._proxy(), indent=1))
        (self.etc / "mounts.sh").write_text(self._mounts(keep))

    def _mounts(self, keep: list[Path]) -> str:
        """The script that makes the node's view of the file system, then stays to hold it."""
        q = shlex.quote
        lines = [
            "set -eu",
            "mount --make-rprivate /",
            # Other instances' namespaces must not be held by this node.
            "umount -lR /run/netns 2>/dev/null || true",
            f"mount --bind {q(str(self.folder / 'run'))} /run",
            "mkdir -p /run/lock /run/netns",
        ]
        for number, folder in enumerate(keep):
            lines += [f"mkdir -p /run/.keep/{number}", f"mount --rbind {q(str(folder))} /run/.keep/{number}"]
        lines += ["mount -t tmpfs -o mode=755 tmpfs /var/lib", "mount -t tmpfs -o mode=755 tmpfs /var/log"]
        for number, folder in enumerate(keep):
            lines += [f"mkdir -p {q(str(folder))}", f"mount --move /run/.keep/{number} {q(str(folder))}"]
        for name, target in (
            ("kubelet", "/var/lib/kubelet"),
            ("containerd", "/var/lib/containerd"),
            ("log", "/var/log"),
        ):
            lines += [f"mkdir -p {target}", f"mount --bind {q(str(self.folder / name))} {target}"]
        for name in _TUNABLES:
            lines.append(f"mount --bind {q(str(self.etc / 'proc' / name.replace('/', '-')))} /proc/sys/{name}")
        # Volumes with mount propagation need a shared root, shared among the node's own processes only.
        lines += ["mount --make-rshared /", "touch /run/ready", "exec sleep infinity"]
        return "\n".join(lines) + "\n"

    def _cni(self) -> dict[str, Any]:
        # ptp, not bridge: every packet between pods is routed, so that kube-proxy's address translation sees
        # both directions also between two pods of one node, whatever the kernel's bridge filter does.
        family = self.plan.family
        return {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "ptp",
                    "mtu": 1500,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": "/run/cni-addresses",
                        "ranges": [[{"subnet": s}] for s in family.pick(self.node.pods_v4, self.node.pods_v6)],
                        "routes": [{"dst": d} for d in family.pick("0.0.0.0/0", "::/0")],
                    },
                }
            ],
        }

    def _registry(self) -> str:
        address = url_host(self.plan.addresses(REGISTRY)[0])
        return f'[host."http://{address}:{REGISTRY_PORT}"]\n  capabilities = ["pull", "resolve"]\n'

    def _containerd(self, sandbox: str) -> str:
        return f"""version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs", "io.containerd.differ.v1.erofs",
]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.metadata.v1.bolt"]
  no_sync = true # as etcd: the data need not outlive the machine, and a slow disk must not hold a pod up
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{sandbox}"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "{self.etc}/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true # lower scores than one's own need CAP_SYS_RESOURCE
  netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{CNI_PROGRAMS}"]
  conf_dir = "{self.etc}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  Root = "/run/runc"
"""

    def _kubelet(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroups.pod_root(self.instance, self.node.name),
            "enforceNodeAllocatable": ["pods"],
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "address": "::" if self.plan.family.v6 else "0.0.0.0",
            "authentication": {
                "anonymous": {"enabled": False},
                "x509": {"clientCAFile": self.pki.crt("ca")},
                "webhook": {"enabled": True},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": self.pki.crt(self.node.name),
            "tlsPrivateKeyFile": self.pki.key(self.node.name),
            "clusterDNS": self.plan.dns_service,  # nobody answers there: tests use addresses
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            "makeIPTablesUtilChains": False,
            "failSwapOn": False,
            "serializeImagePulls": False,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": dict.fromkeys(_EVICTION_SIGNALS, "0%"),
        }

    def _proxy(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "bindAddress": "::" if self.plan.family.v6 else "0.0.0.0",
            "clientConnection": {"kubeconfig": self.pki.conf("proxy")},
            "clusterCIDR": ",".join(self.plan.pod_ranges),
            "hostnameOverride": self.node.name,
            "conntrack": {"maxPerCore": 0},  # the table's size belongs to the machine
            "nftables": {"minSyncPeriod": "100ms"},
        }


def programs(files: NodeFiles, binary: Callable[[str], str]) -> list[Program]:
    """The node's processes, in the order in which they start: mounts, containerd, kubelet, kube-proxy."""
    node = files.node
    mounts = f"{node.name}-mounts"
    path = {"PATH": f"{Path(binary('containerd')).parent}:/usr/sbin:/usr/bin:/sbin:/bin"}  # shim and runc
    containerd = [binary("containerd"), f"--config={files.etc}/containerd.toml"]
    kubelet = [
        binary("kubelet"), f"--config={files.etc}/kubelet.json", f"--kubeconfig={files.pki.conf(node.name)}",
        f"--hostname-override={node.name}", f"--node-ip={','.join(files.plan.addresses(node))}",
    ]  # fmt: skip
    proxy = [binary("kube-proxy"), f"--config={files.etc}/proxy.json"]
    return [
        Program(mounts, node.name, ["unshare", "--mount", "sh", f"{files.etc}/mounts.sh"]),
        Program(f"{node.name}-containerd", node.name, containerd, mounts, path),
        Program(f"{node.name}-kubelet", node.name, kubelet, mounts, path),
        Program(f"{node.name}-proxy", node.name, proxy, mounts, path),
    ]


def load(files: NodeFiles, ctr: str, archive: Path) -> None:
    """Import a docker or OCI archive into the node. Raises ClusterError."""
    told = subprocess.run(
        [ctr, "-a", str(files.socket), "-n", "k8s.io", "images", "import", str(archive)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if told.returncode:
        raise ClusterError(f"{files.node.name} cannot import {archive}: {told.stderr.strip()}")


def container_pid(files: NodeFiles, ctr: str, pod: str, container: str) -> int:
    """The process id, as the machine counts, of a running container's first process. Raises ClusterError."""
    base = [ctr, "-a", str(files.socket), "-n", "k8s.io"]
    wanted = [
        f'labels."io.kubernetes.pod.name"=={pod}',
        f'labels."io.kubernetes.container.name"=={container}',
    ]
    listed = subprocess.run(
        [*base, "containers", "ls", "-q", ",".join(wanted)], capture_output=True, text=True, check=True
    )
    tasks = subprocess.run([*base, "tasks", "ls"], capture_output=True, text=True, check=True)
    running = {f[0]: int(f[1]) for f in (line.split() for line in tasks.stdout.splitlines()[1:]) if f[2] == "RUNNING"}
    for identity in listed.stdout.split():
        if identity in running:
            return running[identity]
    raise ClusterError(f"{files.node.name}: no running container {container!r} of pod {pod!r}")
