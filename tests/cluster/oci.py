"""Runs an image from its archive under runc, as confined as the chart confines it, without a cluster.

For measuring start times and for tests of the images themselves: read-only root, a user, no
capability unless one is asked for, no new privileges, a network namespace of its own with nothing
but loopback. What runs is ended with the context, also on failure.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class ContainerError(RuntimeError):
    """A container does not start or does not answer; the text has its last output."""


def pod() -> tuple[dict[str, str], dict[str, str]]:
    """Environment and files of a pod whose API server cannot be reached: nobody listens on that port."""
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    with tempfile.TemporaryDirectory() as work:
        paths = ["-keyout", f"{work}/key", "-out", f"{work}/crt"]
        subprocess.run([*openssl, *paths, "-subj", "/CN=ca", "-days", "1"], check=True, capture_output=True)
        authority = Path(work, "crt").read_text()
    env = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    account = {"token": "not.a.token", "ca.crt": authority, "namespace": "metallb-system"}
    return env, {f"/var/run/secrets/kubernetes.io/serviceaccount/{name}": text for name, text in account.items()}


@dataclass(frozen=True)
class Image:
    """What an archive says about its image, and where its files were unpacked."""

    user: str
    entrypoint: tuple[str, ...]
    env: tuple[str, ...]
    labels: dict[str, str]
    layers: tuple[str, ...]  # digests of the uncompressed layers
    architecture: str


def read(archive: Path) -> Image:
    """The configuration of the one image in a docker archive."""
    with tarfile.open(archive) as tar:
        return _image(_json(tar, _json(tar, "manifest.json")[0]["Config"]))


def unpack(archive: Path, root: Path) -> Image:
    """Lay the image's files out below `root` (white-outs are not supported: our images have none)."""
    with tarfile.open(archive) as tar:
        manifest = _json(tar, "manifest.json")[0]
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=tar.extractfile(layer)) as files:
                files.extractall(root, filter="tar")
        return _image(_json(tar, manifest["Config"]))


@functools.cache
def _unpacked(archive: Path, changed: int) -> tuple[Path, Image]:
    """The image's files, laid out once per process; removed when it ends."""
    del changed  # a part of the key: an archive that is built anew is another
    folder = Path(tempfile.mkdtemp(prefix="metallb-root-"))
    folder.chmod(0o755)  # it becomes the container's root
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder, unpack(archive, folder)


def _json(tar: tarfile.TarFile, name: str) -> Any:
    member = tar.extractfile(name)
    assert member is not None
    return json.load(member)


def _image(said: dict[str, Any]) -> Image:
    config = said["config"]
    return Image(
        user=config.get("User", ""),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        env=tuple(config.get("Env") or ()),
        labels=config.get("Labels") or {},
        layers=tuple(said["rootfs"]["diff_ids"]),
        architecture=said["architecture"],
    )


class Container:
    """One running container. Use as a context manager.

    `user` is "uid:gid" (default: the image's own), `capabilities` the only ones it may have,
    `cpu` a limit in cores and `memory` one in bytes, `files` are put into its root: path -> content.
    """

    def __init__(
        self,
        archive: Path,
        arguments: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        user: str = "",
        capabilities: Sequence[str] = (),
        cpu: float = 0,
        memory: int = 0,
        entrypoint: Sequence[str] = (),
        files: dict[str, str] | None = None,
    ) -> None:
        self.id = f"metallb-{os.getpid()}-{secrets.token_hex(3)}"
        self._folder = Path(tempfile.mkdtemp(prefix="metallb-oci-"))
        self._state = self._folder / "runc"
        self._output = self._folder / "output"
        self._process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        root = self._folder / "root"
        source, self.image = _unpacked(archive, archive.stat().st_mtime_ns)
        # Linked, not copied: the container cannot write there, and `files` are added beside them.
        shutil.copytree(source, root, symlinks=True, copy_function=os.link)
        for path, text in (files or {}).items():
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        uid, _, gid = (user or self.image.user or "0:0").partition(":")
        self._write_bundle(
            [*(entrypoint or self.image.entrypoint), *arguments],
            [*self.image.env, *(f"{k}={v}" for k, v in (env or {}).items())],
            (int(uid), int(gid or uid)),
            list(capabilities),
            cpu,
            memory,
        )

    def _write_bundle(
        self, args: list[str], env: list[str], user: tuple[int, int], capabilities: list[str], cpu: float, memory: int
    ) -> None:
        resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
        if cpu:
            resources["cpu"] = {"period": 100_000, "quota": int(cpu * 100_000)}
        if memory:
            resources["memory"] = {"limit": memory}
        tmpfs = ["nosuid", "nodev", "noexec", "size=1m", "mode=1777"]
        spec = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": user[0], "gid": user[1]},
                "args": args,
                "env": env,
                "cwd": "/",
                "noNewPrivileges": True,
                # As Kubernetes does it: no ambient set, so a user other than 0 has none in effect.
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            },
            "root": {"path": "root", "readonly": True},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/run/metallb", "type": "tmpfs", "source": "tmpfs", "options": tmpfs},
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
                "resources": resources,
                "cgroupsPath": f"/{self.id}",
            },
        }
        (self._folder / "config.json").write_text(json.dumps(spec))

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        pid_file = self._folder / "pid"
        with open(self._output, "wb") as output:
            run = [*self._runc(), "run", "--bundle", str(self._folder), "--pid-file", str(pid_file), self.id]
            self.started = time.monotonic()
            self._process = subprocess.Popen(run, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        while not (pid_file.exists() and pid_file.read_text()):
            if self._process.poll() is not None or time.monotonic() > self.started + 20:
                raise ContainerError(f"runc cannot start a container:\n{self.output()}")
            time.sleep(0.002)
        self.pid = int(pid_file.read_text())

    def _runc(self) -> list[str]:
        return [shutil.which("runc") or "/usr/sbin/runc", "--root", str(self._state)]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([*self._runc(), "delete", "--force", self.id], capture_output=True, timeout=20, check=False)
            if self._process is not None:
                self._process.wait(20)
        shutil.rmtree(self._folder, ignore_errors=True)

    def output(self) -> str:
        """What it has written so far, both streams."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_output(self, text: str, timeout: float) -> None:
        """Wait until it has written `text`. Raises ContainerError."""
        limit = time.monotonic() + timeout
        while text not in self.output():
            if not self.running() or time.monotonic() > limit:
                raise ContainerError(f"has not written {text!r} in {timeout:.0f} s:\n{self.output()}")
            time.sleep(0.02)

    def signal(self, name: str) -> None:
        subprocess.run([*self._runc(), "kill", self.id, name], check=True, capture_output=True)

    def exit_code(self, timeout: float) -> int:
        """How it ended. Raises ContainerError if it has not in `timeout` seconds."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ContainerError(f"still running after {timeout:.0f} s:\n{self.output()}") from None

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, with its own user and environment."""
        return subprocess.run([*self._runc(), "exec", self.id, *command], capture_output=True, text=True, check=False)

    def status(self, field: str) -> str:
        """One field of the main process' /proc/PID/status."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return line.partition(":")[2].strip()
        raise KeyError(field)

    def get(self, path: str, port: int) -> str:
        """The body of a 200 answer to a request from inside the container's network. Raises ContainerError."""
        code = (
            f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}{path}', timeout=30).read().decode())"
        )
        told = subprocess.run(self._enter(code), capture_output=True, text=True, timeout=60, check=False)
        if told.returncode:
            raise ContainerError(f"{path} on port {port}: {told.stderr.strip().splitlines()[-1]}\n{self.output()}")
        return told.stdout

    def wait_http(self, path: str, port: int, timeout: float) -> float:
        """Seconds from the start until `path` answers 200. Raises ContainerError after `timeout` seconds."""
        code = f"""
import http.client, sys, time
limit = time.monotonic() + {timeout}
while time.monotonic() < limit:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", {port}, timeout=5)
        connection.request("GET", {path!r})
        if connection.getresponse().status == 200:
            print(time.monotonic())
            sys.exit(0)
    except (OSError, http.client.HTTPException):
        pass
    time.sleep(0.005)
sys.exit(1)
"""
        probe = subprocess.Popen(self._enter(code), stdout=subprocess.PIPE, text=True)
        try:
            while probe.poll() is None and self.running():
                time.sleep(0.005)
        finally:
            probe.kill()
            said, _ = probe.communicate()
        if not said:
            why = f"does not answer in {timeout:.0f} s" if self.running() else "is gone: the process has ended"
            raise ContainerError(f"{path} on port {port} {why}:\n{self.output()}")
        return float(said) - self.started

    def _enter(self, code: str) -> list[str]:
        """The command that runs Python code of this machine in the container's network."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", sys.executable, "-S", "-c", code]
