"""A real kube-apiserver with its etcd, on free loopback ports: what an API client needs, no nodes.

Ended by the ids of the processes started here. No kubelet and no controller-manager run: Services
get cluster addresses (the API server does that itself), pods and garbage collection do not happen.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cluster import toolchain

ADMIN = "admin-token"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def _until_stopped(pid: int) -> None:
    """Until every thread has stopped: a signal takes a moment to reach them all, and one may answer meanwhile."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        states = []
        for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):
                states.append(stat.read_text().rpartition(")")[2].split()[0])
        if states and all(state in "TtZX" for state in states):
            return
        time.sleep(0.005)
    raise RuntimeError(f"process {pid} does not stop")


class ApiServer:
    """Start with `with ApiServer() as server:`. `server.kubeconfig()` is the administrator's."""

    def __init__(self, *flags: str, dual_stack: bool = True) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="metallb-api-"))
        self.flags = flags
        self.ranges = "10.96.0.0/14,fd00:10:96::/108" if dual_stack else "10.96.0.0/14"
        self.port, self.etcd_port, self.peer_port = free_port(), free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self._etcd: subprocess.Popen[bytes] | None = None
        self._api: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ApiServer:
        try:
            self._keys()
            self.start_etcd()
            self.start_api()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- processes -------------------------------------------------------------------------------

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        log = open(self.folder / f"{name}.log", "ab")  # noqa: SIM115 (the child keeps it)
        with log:
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)

    def start_etcd(self) -> None:
        etcd = shutil.which("etcd")
        assert etcd, "etcd is not installed: python3 tests/cluster/toolchain.py cluster"
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.peer_port}"
        self._etcd = self._spawn(
            "etcd",
            [
                etcd,
                "--data-dir=etcd",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",
                "--log-level=error",
            ],
        )

    def start_api(self, wait: float = 180.0, *, etcd_port: int | None = None) -> None:
        """Start it and wait until it is ready; `etcd_port` is another way to etcd than the straight one."""
        self._api = self._spawn(
            "kube-apiserver",
            [
                str(toolchain.path("kube-apiserver")),
                f"--etcd-servers=http://127.0.0.1:{etcd_port or self.etcd_port}",
                f"--secure-port={self.port}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
                f"--service-cluster-ip-range={self.ranges}",
                "--authorization-mode=RBAC",
                "--client-ca-file=ca.crt",
                "--tls-cert-file=api.crt",
                "--tls-private-key-file=api.key",
                "--token-auth-file=tokens.csv",
                "--service-account-key-file=sa.key",
                "--service-account-signing-key-file=sa.key",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--disable-admission-plugins=ServiceAccount",
                "--profiling=false",
                *self.flags,
            ],
        )
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            if self._api.poll() is not None:
                raise RuntimeError(f"kube-apiserver ended:\n{self._tail('kube-apiserver')}")
            with contextlib.suppress(OSError, ssl.SSLError):
                self.raw("GET", "/readyz")
                return
            time.sleep(0.2)
        raise RuntimeError(f"kube-apiserver is not ready:\n{self._tail('kube-apiserver')}")

    def _tail(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    @staticmethod
    def _end(process: subprocess.Popen[bytes] | None, grace: float) -> None:
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_api(self, grace: float = 0.5) -> None:
        self._end(self._api, grace)

    def pause_etcd(self) -> None:
        assert self._etcd is not None
        self._etcd.send_signal(signal.SIGSTOP)
        _until_stopped(self._etcd.pid)

    def resume_etcd(self) -> None:
        assert self._etcd is not None
        self._etcd.send_signal(signal.SIGCONT)

    def pause_api(self) -> None:
        assert self._api is not None
        self._api.send_signal(signal.SIGSTOP)
        _until_stopped(self._api.pid)

    def resume_api(self) -> None:
        assert self._api is not None
        self._api.send_signal(signal.SIGCONT)

    @property
    def api_pid(self) -> int:
        assert self._api is not None
        return self._api.pid

    def stop(self) -> None:
        self._end(self._api, 0.5)
        self._end(self._etcd, 5.0)
        shutil.rmtree(self.folder, ignore_errors=True)

    def compact(self) -> int:
        """Forget etcd's history up to now; returns the revision."""

        def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.etcd_port}/v3/{path}", json.dumps(body).encode(), method="POST"
            )
            with urllib.request.urlopen(request, timeout=10) as answer:
                return dict(json.load(answer))

        key = base64.b64encode(b"\0").decode()
        revision = int(ask("kv/range", {"key": key, "range_end": key, "limit": 1})["header"]["revision"])
        ask("kv/compaction", {"revision": revision})
        return revision

    # --- who may talk to it ----------------------------------------------------------------------

    def _keys(self) -> None:
        for name in ("ca", "api", "client", "sa"):
            _openssl(self.folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        _openssl(
            self.folder, "req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=test", "-days", "2", "-out", "ca.crt"
        )
        for name, subject in (("api", "/CN=kube-apiserver"), ("client", "/O=system:masters/CN=certificate-admin")):
            (self.folder / f"{name}.ext").write_text(
                "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=clientAuth,serverAuth\n"
            )
            _openssl(self.folder, "req", "-new", "-key", f"{name}.key", "-subj", subject, "-out", f"{name}.csr")
            _openssl(
                self.folder,
                *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
                *("-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.crt"),
            )
        (self.folder / "tokens.csv").write_text(f'{ADMIN},admin,admin,"system:masters"\n')

    def kubeconfig(self, token: str = ADMIN, *, certificate: bool = False) -> str:
        """A kubeconfig file for a bearer token, or for the client certificate."""
        user: dict[str, str] = {"token": token}
        if certificate:
            user = {
                "client-certificate": str(self.folder / "client.crt"),
                "client-key": str(self.folder / "client.key"),
            }
        path = self.folder / f"kubeconfig-{abs(hash((token, certificate)))}"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": self.url, "certificate-authority": str(self.folder / "ca.crt")},
                }
            ],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        path.write_text(json.dumps(document))  # JSON is YAML
        return str(path)

    def service_account_token(self, namespace: str, name: str) -> str:
        """A token of this ServiceAccount, which is created when it is not there."""
        with contextlib.suppress(Conflict):
            self.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
        answer = self.raw(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}},
        )
        return str(answer["status"]["token"])

    # --- a plain client, independent of the product's ----------------------------------------------

    def raw(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str = ADMIN,
        content_type: str = "application/json",
        timeout: float = 30.0,
    ) -> Any:
        """One request; JSON in, JSON (or text) out. Raises Conflict for 409, HTTPError for others."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        request = urllib.request.Request(
            self.url + path, None if body is None else json.dumps(body).encode(), method=method
        )
        request.add_header("Authorization", f"Bearer {token}")
        request.add_header("Content-Type", content_type)
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:
                raw = answer.read()
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            if error.code == 409:
                raise Conflict(text) from None
            error.msg = f"{error.msg}: {text[:500]}"
            raise
        try:
            return json.loads(raw)
        except ValueError:
            return raw.decode(errors="replace")

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return dict(self.raw("POST", path, body))

    def get(self, path: str) -> dict[str, Any]:
        return dict(self.raw("GET", path))

    def delete(self, path: str) -> None:
        self.raw("DELETE", path)

    def merge(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return dict(self.raw("PATCH", path, body, content_type="application/merge-patch+json"))


class Conflict(Exception):
    """409: it is there already, or it has changed."""


@contextlib.contextmanager
def running(*flags: str) -> Iterator[ApiServer]:
    with ApiServer(*flags) as server:
        yield server


def resident_mib(pid: int) -> float:
    """VmRSS of a process, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
