"""The instance's certificate authority, its certificates and its kubeconfigs, by the openssl program."""

from __future__ import annotations

import base64
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.instance import ClusterError, replace_text
from tests.cluster.plan import CONTROL_PLANE, Plan

DAYS = "30"
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True)
class Pki:
    """Files below `folder`: ca.crt, sa.key, sa.pub, and NAME.crt, NAME.key, NAME.conf per identity."""

    folder: Path

    def crt(self, name: str) -> str:
        return str(self.folder / f"{name}.crt")

    def key(self, name: str) -> str:
        return str(self.folder / f"{name}.key")

    def conf(self, name: str) -> str:
        return str(self.folder / f"{name}.conf")

    def make(self, plan: Plan) -> None:
        """Everything that a cluster of this plan needs. Raises ClusterError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        _openssl("req", "-x509", *_KEY, "-keyout", self.key("ca"), "-out", self.crt("ca"), "-days", DAYS,
                 "-subj", "/CN=embedded-cluster", "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.key("sa"))
        _openssl("ec", "-in", self.key("sa"), "-pubout", "-out", str(self.folder / "sa.pub"))
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", CONTROL_PLANE.name]
        addresses = [*plan.api_service, *plan.addresses(CONTROL_PLANE), "127.0.0.1", "::1"]
        wanted = [
            ("api", "/CN=kube-apiserver", names, addresses),
            ("admin", "/O=system:masters/CN=admin", [], []),
            ("controller-manager", "/CN=system:kube-controller-manager", [], []),
            ("scheduler", "/CN=system:kube-scheduler", [], []),
            ("proxy", "/CN=system:kube-proxy", [], []),
        ]
        for node in plan.node_hosts:
            subject = f"/O=system:nodes/CN=system:node:{node.name}"
            wanted.append((node.name, subject, [node.name], plan.addresses(node)))
        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(lambda one: self._issue(*one), wanted):
                pass
        for name, *_ in wanted[1:]:
            replace_text(Path(self.conf(name)), self.kubeconfig(name, plan.api_url), 0o600)

    def _issue(self, name: str, subject: str, names: list[str], addresses: list[str]) -> None:
        alternatives = [f"DNS:{n}" for n in names or [name]] + [f"IP:{a}" for a in addresses]
        _openssl("req", "-x509", "-CA", self.crt("ca"), "-CAkey", self.key("ca"), *_KEY, "-days", DAYS,
                 "-keyout", self.key(name), "-out", self.crt(name), "-subj", subject,
                 "-addext", f"subjectAltName={','.join(alternatives)}",
                 "-addext", "basicConstraints=critical,CA:FALSE",
                 "-addext", "extendedKeyUsage=clientAuth,serverAuth")  # fmt: skip

    def kubeconfig(self, name: str, url: str) -> str:
        """A kubeconfig that holds its certificates, so that it can be copied anywhere."""

        def data(path: str) -> str:
            return base64.b64encode(Path(path).read_bytes()).decode()

        document: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "embedded", "cluster": {"server": url, "certificate-authority-data": data(self.crt("ca"))}}
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": data(self.crt(name)),
                        "client-key-data": data(self.key(name)),
                    },
                }
            ],
            "contexts": [{"name": "embedded", "context": {"cluster": "embedded", "user": name}}],
            "current-context": "embedded",
        }
        return json.dumps(document, indent=1)  # JSON is YAML


def _openssl(*arguments: str) -> None:
    told = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if told.returncode:
        raise ClusterError(f"openssl {arguments[0]} failed: {told.stderr.strip()}")
