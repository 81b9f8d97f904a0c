"""Bringing an instance up and down. Both can be killed at any moment and run again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.cluster import cgroups, controlplane, guests, machine, node, toolchain
from tests.cluster.fabric import Fabric
from tests.cluster.instance import ClusterError, Instance, replace_text, say, until
from tests.cluster.kubeapi import KubeApi
from tests.cluster.node import NodeFiles
from tests.cluster.pki import Pki
from tests.cluster.plan import Node, Plan
from tests.cluster.processes import Processes

_PROGRAMS = ("containerd", "kubernetes", "helm")


def binary(name: str) -> str:
    return str(toolchain.path(name))


def prepare() -> Path:
    """Everything that a cluster needs from the machine, installed or built if missing; returns the guest image."""
    if os.geteuid() != 0:
        raise ClusterError("the embedded cluster needs root: network namespaces, containers")
    toolchain.packages(["cluster", "wire"])
    toolchain.ensure(_PROGRAMS)
    return guests.guest()


def node_files(instance: Instance, plan: Plan, one: Node) -> NodeFiles:
    return NodeFiles(instance, plan, one, Pki(instance.folder / "pki"))


def up(instance: Instance, plan: Plan) -> None:
    """Bring the instance up, or leave it alone if it is up as asked. Interrupted, it takes back what it made.

    Raises ClusterError; then the state stays, for the logs in it, until the next `up` or `down`.
    """
    image = prepare()
    with instance.locked():
        if instance.exists():
            found, complete = instance.read()
            if complete and healthy(instance, found):
                if found != plan:
                    raise ClusterError(
                        f"{instance.name} is up with {found.nodes} node(s), {found.family.value}; "
                        f"run down first for {plan.nodes} node(s), {plan.family.value}"
                    )
                say(f"{instance.name} is up already")
                return
            say(f"{instance.name}: cleaning up what an earlier run left")
            _remove(instance)
        elif cgroups.all_members(instance):
            raise ClusterError(
                f"{instance.name} runs with another state folder than {instance.base}; see METALLB_STATE"
            )
        else:
            _remove(instance)
        began = time.monotonic()
        try:
            with _terminated_is_interrupted():
                _build(instance, plan, image)
        except KeyboardInterrupt:
            say(f"{instance.name}: interrupted; cleaning up")
            with _undisturbed():
                _remove(instance)
            raise
        instance.write(plan, complete=True)
        say(f"{instance.name} is up: {plan.nodes} node(s) Ready after {time.monotonic() - began:.1f} s")


def down(instance: Instance) -> None:
    """End all that the instance started, and remove all that it made. Fine if there is nothing."""
    with instance.locked(), _undisturbed():
        if not instance.exists() and not Fabric(instance).namespaces() and not cgroups.groups(instance):
            shutil.rmtree(instance.folder, ignore_errors=True)
            say(f"{instance.name} is not up")
            return
        _remove(instance)
        say(f"{instance.name} is down")


def healthy(instance: Instance, plan: Plan) -> bool:
    """Every recorded process runs and every node is Ready; one that is only busy is given half a minute to say so."""
    processes = Processes(instance)
    names = processes.names()
    if not names or any(processes.pid(n) is None for n in names) or not instance.kubeconfig.exists():
        return False
    api, wanted = KubeApi(instance.kubeconfig), {n.name for n in plan.node_hosts}
    with contextlib.suppress(ClusterError):
        until("every node is Ready", lambda: api.ready_nodes() >= wanted, 30, 0.2)
        return True
    return False


def _build(instance: Instance, plan: Plan, image: Path) -> None:
    instance.write(plan, complete=False)
    machine.allow_watches(instance.base)
    processes, pki = Processes(instance), Pki(instance.folder / "pki")
    say(f"{instance.name}: {plan.nodes} node(s), {plan.family.value}; state and logs in {instance.folder}")
    with ThreadPoolExecutor(1) as pool:
        certificates = pool.submit(pki.make, plan)
        Fabric(instance).make(plan)
        certificates.result()
    port = controlplane.free_port()
    etcd, api_server, *rest = controlplane.programs(instance, plan, pki, binary, port)
    door = rest.pop()
    for program in (etcd, api_server, door):
        processes.start(program)
    replace_text(instance.kubeconfig, pki.kubeconfig("admin", f"https://127.0.0.1:{port}"), 0o600)
    say("hosts and certificates are there; starting the API server and containerd")
    api = KubeApi(instance.kubeconfig)
    with ThreadPoolExecutor(max_workers=plan.nodes) as pool:
        files = [node_files(instance, plan, n) for n in plan.node_hosts]
        later = list(pool.map(lambda f: _start_containerd(f, processes, image), files))
        _wait(processes, "the API server is ready", api.ready, ["etcd", api_server.name, door.name])
        for program in rest:
            processes.start(program)
        say("the API server is ready; starting kubelets")
        for programs in later:
            for program in programs:
                processes.start(program)
    wanted = {n.name for n in plan.node_hosts}
    kubelets = [f"{n}-kubelet" for n in sorted(wanted)]
    _wait(processes, f"{plan.nodes} node(s) Ready", lambda: api.ready_nodes() >= wanted, kubelets)
    _wait(processes, "the default service account", lambda: _has_account(api), ["kube-controller-manager"])


def _has_account(api: KubeApi) -> bool:
    with contextlib.suppress(OSError, ClusterError):
        return bool(api.get("/api/v1/namespaces/default/serviceaccounts/default"))
    return False


def _start_containerd(files: NodeFiles, processes: Processes, image: Path) -> list[Any]:
    """Start the node's mounts and containerd, load the guest image, and return what is to start later."""
    files.write(guests.GUEST, _keep(files.instance))
    mounts, containerd, *later = node.programs(files, binary)
    processes.start(mounts)
    _wait(processes, f"{files.node.name}'s mounts", (files.folder / "run" / "ready").exists, [mounts.name])
    processes.start(containerd)
    _wait(processes, f"{files.node.name}'s containerd", files.socket.exists, [containerd.name])
    node.load(files, binary("ctr"), image)
    return later


def _keep(instance: Instance) -> list[Path]:
    """Folders that a node must see although it has its own /run, /var/lib and /var/log."""
    wanted = [instance.folder, toolchain.cache().resolve(), Path(__file__).resolve().parents[2]]
    hidden = [Path(p) for p in ("/run", "/var/lib", "/var/log")]
    return [w for w in wanted if w == instance.folder or any(h in w.parents for h in hidden)]


def _wait(processes: Processes, what: str, test: Any, names: list[str], timeout: float = 300.0) -> None:
    """Wait, but no longer once one of the named processes has ended: its log says why."""

    def one() -> bool:
        if test():
            return True
        for name in names:
            if processes.pid(name) is None:
                raise ClusterError(f"{name} ended while waiting for: {what}\n{processes.tail(name)}")
        return False

    try:
        until(what, one, timeout)
    except ClusterError as error:
        if "not within" not in str(error):
            raise
        logs = "\n".join(f"--- {n}\n{processes.tail(n, 5)}" for n in names)
        raise ClusterError(f"{error}\n{logs}") from None


def _remove(instance: Instance) -> None:
    """Processes first, then what they held. The settings file goes last, so that a killed run is found again."""
    processes = Processes(instance)
    for name in processes.names():
        processes.signal(name, signal.SIGKILL)
    cgroups.end_all(instance)
    Fabric(instance).remove()
    _unmount(instance.folder)
    if instance.folder.exists():
        for path in instance.folder.iterdir():
            if path == instance.settings:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        shutil.rmtree(instance.folder)
    machine.restore_watches(instance.base)


def _unmount(folder: Path) -> None:
    """Mounts below the folder. There are none unless the machine shares its mounts with all namespaces."""
    targets = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for target in sorted((t for t in targets if t.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", target], check=False)


@contextlib.contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM and SIGHUP end `up` as Ctrl-C does: with what it made taken back."""
    with _handlers(signal.default_int_handler, [signal.SIGTERM, signal.SIGHUP]):
        yield


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not leave half of a cleaning-up undone."""
    with _handlers(signal.SIG_IGN, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]):
        yield


@contextlib.contextmanager
def _handlers(handler: Any, numbers: list[signal.Signals]) -> Iterator[None]:
    try:
        before = {n: signal.signal(n, handler) for n in numbers}
    except ValueError:  # not the main thread: signals are somebody else's there
        yield
        return
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
