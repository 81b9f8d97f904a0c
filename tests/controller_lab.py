"""A namespace, an account and processes of the controller beside a real API server."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.apiserver import ApiServer, Conflict, free_port

NAMESPACE = "metallb-system"
MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/metallb-controller"

#: What the original's chart and manifests grant to the controller (contract section 6), nothing more.
ORIGINAL_CLUSTER_RULES = [
    {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["services/status"], "verbs": ["update"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
]
ORIGINAL_RULES = [
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["memberlist"], "verbs": ["list"]},
    {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["controller"], "verbs": ["get"]},
]


def wait(what: Callable[[], Any], seconds: float = 60.0, every: float = 0.05) -> Any:
    """The first true value of `what`; AssertionError when there is none in time.

    The limit is for a machine that does much else or stands still for seconds: it is no target.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {getattr(what, '__doc__', None) or what}"
        time.sleep(every)


class Process:
    """One controller process."""

    def __init__(self, server: ApiServer, *flags: str, token: str | None = None) -> None:
        self.port = free_port()
        self.log = server.folder / f"controller-{self.port}.log"
        kubeconfig = server.kubeconfig(token) if token else server.kubeconfig()
        self.started = time.monotonic()
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "metallb_controller",
                    f"--port={self.port}",
                    "--host=127.0.0.1",
                    f"--namespace={NAMESPACE}",
                    f"--kubeconfig={kubeconfig}",
                    *flags,
                ],
                stdout=out,
                stderr=out,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def page(self, path: str) -> str:
        """A page's text; empty while there is none. The status code does not matter."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""

    def status(self) -> dict[str, Any]:
        text = self.page("/status")
        return dict(json.loads(text)) if text else {}

    def metric(self, name: str) -> float | None:
        for line in self.page("/metrics").splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        return None

    def leading(self) -> bool:
        return self.status().get("state") == "leading"

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)


OUR_RIGHTS = "our rights"
ORIGINAL_RIGHTS = "the original's rights"


class Start:
    """Starts controllers that may do what our chart and manifests grant, or the original's, and no more."""

    def __init__(self, lab: Lab, rights: str) -> None:
        self._lab = lab
        self.leases = rights == OUR_RIGHTS  # without, one controller at a time is all that may run
        self.token = lab.our_account() if rights == OUR_RIGHTS else lab.original_account()

    def __call__(self, *flags: str) -> Process:
        return self._lab.controller(*flags, token=self.token)


def only(rights: str, why: str) -> pytest.MarkDecorator:
    """This test of `start` makes sense with these rights only, and why."""
    assert why
    return pytest.mark.parametrize("start", [rights], indirect=True)


class Lab:
    """Everything a test does to the cluster, in a word each."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.processes: list[Process] = []
        with contextlib.suppress(Conflict):
            server.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})

    def controller(self, *flags: str, token: str | None = None) -> Process:
        process = Process(self.server, *flags, token=token)
        self.processes.append(process)
        return process

    def configure(self, document: str, name: str = "config") -> None:
        try:
            self.server.create(MAPS, {"metadata": {"name": name}, "data": {"config": document}})
        except Conflict:
            self.server.merge(f"{MAPS}/{name}", {"data": {"config": document}})

    def create(
        self, name: str, namespace: str = "default", annotations: dict[str, str] | None = None, **spec: Any
    ) -> dict[str, Any]:
        meta: dict[str, Any] = {"name": name}
        if annotations:
            meta["annotations"] = annotations
        body = {"metadata": meta, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], **spec}}
        return self.server.create(f"/api/v1/namespaces/{namespace}/services", body)

    def services(self) -> dict[str, dict[str, Any]]:
        items = self.server.get("/api/v1/services")["items"]
        return {f"{i['metadata']['namespace']}/{i['metadata']['name']}": i for i in items}

    def addresses(self) -> dict[str, tuple[str, ...]]:
        """Of every LoadBalancer Service."""
        return {
            key: tuple(e["ip"] for e in (item["status"].get("loadBalancer") or {}).get("ingress") or ())
            for key, item in self.services().items()
            if item["spec"]["type"] == "LoadBalancer"
        }

    def ip(self, name: str, namespace: str = "default") -> tuple[str, ...]:
        item = self.server.get(f"/api/v1/namespaces/{namespace}/services/{name}")
        return tuple(e["ip"] for e in (item["status"].get("loadBalancer") or {}).get("ingress") or ())

    def events(self, name: str, kind: str = "Service") -> list[tuple[str, str, str]]:
        """(type, reason, message) of every event of ours about an object, oldest first."""
        items = self.server.get("/api/v1/events")["items"]
        found = [e for e in items if e["involvedObject"]["name"] == name and e["involvedObject"]["kind"] == kind]
        # The API server tells of cluster addresses that its list does not have for a moment.
        found = [e for e in found if (e.get("source") or {}).get("component", "").startswith("metallb")]
        found.sort(key=lambda e: int(e["metadata"]["resourceVersion"]))
        return [(e["type"], e["reason"], e["message"]) for e in found]

    def all_have_addresses(self) -> bool:
        """Every LoadBalancer Service has an address."""
        return all(self.addresses().values())

    def clear(self) -> None:
        """Everything that a test made goes away."""
        for process in self.processes:
            process.kill()
        self.processes.clear()
        for key, item in self.services().items():
            namespace, name = key.split("/")
            if name != "kubernetes":
                path = f"/api/v1/namespaces/{namespace}/services/{name}"
                if item["metadata"].get("finalizers"):
                    self.server.merge(path, {"metadata": {"finalizers": None}})
                with contextlib.suppress(urllib.error.HTTPError):
                    self.server.delete(path)
        for path in (
            MAPS,
            f"/api/v1/namespaces/{NAMESPACE}/secrets",
            "/api/v1/namespaces/default/events",
            EVENTS,
            LEASE,
        ):
            with contextlib.suppress(urllib.error.HTTPError):
                self.server.delete(path)

    def original_account(self) -> str:
        """The token of a ServiceAccount with exactly the original's rights."""
        return self._account("controller", ORIGINAL_CLUSTER_RULES, ORIGINAL_RULES)

    def our_account(self) -> str:
        """The token of a ServiceAccount with exactly the rights that our manifests, made from the chart, grant.

        Only the names of two objects differ here: of the Lease, and of the accepted configuration.
        """
        manifests = Path(__file__).resolve().parent.parent / "manifests" / "metallb.yaml"
        objects = [o for o in yaml.safe_load_all(manifests.read_text()) if o]
        rules: dict[str, list[dict[str, Any]]] = {"ClusterRole": [], "Role": []}
        for binding in objects:
            if binding["kind"] not in ("ClusterRoleBinding", "RoleBinding"):
                continue
            if any(s["name"] == "controller" for s in binding["subjects"]):
                kind, name = binding["roleRef"]["kind"], binding["roleRef"]["name"]
                (found,) = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
                rules[kind] += found["rules"]
        for rule in rules["Role"]:
            if rule["resources"] == ["leases"] and "resourceNames" in rule:
                rule["resourceNames"] = ["metallb-controller"]
            if rule.get("resourceNames") == ["config-accepted"]:
                rule["resourceNames"] = ["accepted"]
        return self._account("our-controller", rules["ClusterRole"], rules["Role"])

    def _account(self, name: str, cluster: list[dict[str, Any]], local: list[dict[str, Any]]) -> str:
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        subject = [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}]
        role = {"apiGroup": "rbac.authorization.k8s.io", "name": name}
        named = {"metadata": {"name": name}}
        with contextlib.suppress(Conflict):
            for kind, rules, path in (
                ("ClusterRole", cluster, f"{rbac}/cluster"),
                ("Role", local, f"{rbac}/namespaces/{NAMESPACE}/"),
            ):
                self.server.create(f"{path}roles", {**named, "rules": rules})
                self.server.create(
                    f"{path}rolebindings", {**named, "subjects": subject, "roleRef": {**role, "kind": kind}}
                )
        return self.server.service_account_token(NAMESPACE, name)


@contextlib.contextmanager
def lab(*flags: str) -> Iterator[Lab]:
    with ApiServer(*flags) as server:
        made = Lab(server)
        try:
            yield made
        finally:
            for process in made.processes:
                process.kill()


def log_tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2000:]
