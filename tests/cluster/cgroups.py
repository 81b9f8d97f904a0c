"""The instance's control groups: the one record of its processes that no kill can falsify.

Every process is put into ``mlb-NAME/daemons`` before it becomes what it shall be, its children are born
there, and pods live in ``mlb-NAME/<node>``. So what `down` must end is what these groups hold, be it a
daemon, a containerd shim or a container, and no process id is ever guessed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from tests.cluster.instance import ClusterError, Instance


def hierarchies() -> list[Path]:
    """The mounted cgroup hierarchies: one with v2, one per controller with v1, both when mixed."""
    found: list[Path] = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, _ = line.split(" ", 3)
        if kind in ("cgroup", "cgroup2"):
            found.append(Path(target))
    if not found:
        raise ClusterError("no cgroup hierarchy is mounted; containers need one")
    return found


def unified() -> bool:
    """Whether controllers are on cgroup v2 (the kubelet's failCgroupV1 is about this)."""
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def daemons(instance: Instance) -> Path:
    """The group for the instance's own processes, made if missing."""
    mounted = hierarchies()
    chosen = next((h for h in mounted if (h / "cgroup.controllers").exists()), None)
    chosen = chosen or next((h for h in mounted if h.name == "pids"), mounted[0])
    group = chosen / instance.prefix / "daemons"
    group.mkdir(parents=True, exist_ok=True)
    return group


def pod_root(instance: Instance, node: str) -> str:
    """The kubelet's cgroupRoot for a node, made in every hierarchy, as the kubelet demands."""
    for hierarchy in hierarchies():
        group = hierarchy
        for name in (instance.prefix, node):
            _delegate(group)
            group = group / name
            group.mkdir(exist_ok=True)
            _inherit_cpuset(group)
    return f"/{instance.prefix}/{node}"


def _delegate(group: Path) -> None:
    """cgroup v2: hand every controller that there is on to the groups below."""
    with contextlib.suppress(FileNotFoundError):
        for controller in (group / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):  # one that cannot be handed on is one that pods do without
                (group / "cgroup.subtree_control").write_text(f"+{controller}")


def _inherit_cpuset(group: Path) -> None:
    """cgroup v1: a new cpuset is empty, and nothing can run in it, until it is told its CPUs and memory."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        ours, above = group / name, group.parent / name
        if ours.exists() and above.exists() and not ours.read_text().strip():
            ours.write_text(above.read_text())


def groups(instance: Instance) -> list[Path]:
    """Every group of the instance in every hierarchy, the deepest first."""
    found: list[Path] = []
    for root in (h / instance.prefix for h in hierarchies()):
        if root.is_dir():
            found += [Path(folder) for folder, _, _ in os.walk(root, topdown=False)]
    return found


def members(group: Path) -> set[int]:
    """The process ids in one group, without its subgroups."""
    try:
        return {int(line) for line in (group / "cgroup.procs").read_text().split()}
    except (FileNotFoundError, OSError):  # removed meanwhile, or a threaded group
        return set()


def all_members(instance: Instance) -> set[int]:
    return {pid for group in groups(instance) for pid in members(group)} - {0}


def end_all(instance: Instance, timeout: float = 60.0) -> None:
    """SIGKILL everything in the instance's groups until they are empty, then remove them. Raises ClusterError."""
    end = time.monotonic() + timeout
    pause = 0.01
    while left := all_members(instance):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # ours, when up and down run in one process
        if time.monotonic() > end:
            raise ClusterError(f"{instance.name}: processes that do not end: {sorted(left)}")
        time.sleep(pause)
        pause = min(2 * pause, 0.2)
    while remaining := groups(instance):
        for group in remaining:
            with contextlib.suppress(OSError):  # still busy: a last exit is on its way
                group.rmdir()
        if time.monotonic() > end:
            raise ClusterError(f"{instance.name}: control groups that stay: {', '.join(map(str, groups(instance)))}")
        time.sleep(0.01)
