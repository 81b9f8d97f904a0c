"""etcd, kube-apiserver, kube-controller-manager, kube-scheduler, and the door to the API from the machine itself."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

from tests.cluster.instance import Instance
from tests.cluster.pki import Pki
from tests.cluster.plan import API_PORT, CONTROL_PLANE, Plan
from tests.cluster.processes import Program

_ETCD = "http://127.0.0.1:2379"
FORWARD = Path(__file__).with_name("forward.py")


def programs(instance: Instance, plan: Plan, pki: Pki, binary: Callable[[str], str], port: int) -> list[Program]:
    """In the order in which they start. `port`: on 127.0.0.1 of the machine, leads to the API server."""
    host = CONTROL_PLANE.name
    services = ",".join(plan.service_ranges)
    etcd = [
        "etcd", "--name=cp", f"--data-dir={instance.folder}/etcd",
        f"--listen-client-urls={_ETCD}", f"--advertise-client-urls={_ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=cp=http://127.0.0.1:2380",
        "--unsafe-no-fsync",  # the data need not outlive the machine
        "--quota-backend-bytes=8589934592", "--log-level=warn",
    ]  # fmt: skip
    api = [
        binary("kube-apiserver"), f"--etcd-servers={_ETCD}", f"--service-cluster-ip-range={services}",
        f"--bind-address={'::' if plan.family.v6 else '0.0.0.0'}", f"--secure-port={API_PORT}",
        f"--advertise-address={plan.addresses(CONTROL_PLANE)[0]}",
        "--authorization-mode=Node,RBAC", "--allow-privileged=true",
        f"--client-ca-file={pki.crt('ca')}", f"--tls-cert-file={pki.crt('api')}",
        f"--tls-private-key-file={pki.key('api')}",
        f"--service-account-key-file={pki.folder}/sa.pub", f"--service-account-signing-key-file={pki.key('sa')}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--kubelet-client-certificate={pki.crt('admin')}", f"--kubelet-client-key={pki.key('admin')}",
        "--kubelet-preferred-address-types=InternalIP", "--enable-aggregator-routing=true",
        "--profiling=false",
    ]  # fmt: skip
    manager = [
        binary("kube-controller-manager"), f"--kubeconfig={pki.conf('controller-manager')}",
        f"--root-ca-file={pki.crt('ca')}", f"--service-account-private-key-file={pki.key('sa')}",
        f"--cluster-signing-cert-file={pki.crt('ca')}", f"--cluster-signing-key-file={pki.key('ca')}",
        f"--service-cluster-ip-range={services}", f"--cluster-cidr={','.join(plan.pod_ranges)}",
        "--use-service-account-credentials", "--leader-elect=false", "--profiling=false",
        "--controllers=*,-node-ipam-controller",  # pod ranges are the plan's
    ]  # fmt: skip
    scheduler = [
        binary("kube-scheduler"), f"--kubeconfig={pki.conf('scheduler')}", "--leader-elect=false", "--profiling=false",
    ]  # fmt: skip
    return [
        Program("etcd", host, etcd),
        Program("kube-apiserver", host, api),
        Program("kube-controller-manager", host, manager),
        Program("kube-scheduler", host, scheduler),
        door(instance, port),
    ]


def door(instance: Instance, port: int) -> Program:
    """A forwarder from 127.0.0.1 of the machine, so that ordinary clients work from an ordinary shell."""
    namespace = f"/run/netns/{instance.netns(CONTROL_PLANE.name)}"
    return Program("door", "", [sys.executable, "-I", str(FORWARD), str(port), namespace, str(API_PORT)])


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
