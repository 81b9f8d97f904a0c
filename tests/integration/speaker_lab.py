"""A real `metallb-speaker --mode announcer` in a namespace, and a cluster half that tests speak for."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from metallb_speaker import stream
from metallb_speaker.desired import AnnouncedAddress, Item, Layer2Group, Member
from tests.integration.layer2_lab import LIMIT, Host, inside, until

PORT = 7472
ROOT = Path(__file__).resolve().parent.parent.parent


def group(*ips: str, candidates: Sequence[str] = ("n1",), **more: Any) -> Layer2Group:
    addresses = tuple(AnnouncedAddress(ip, (f"ns/{ips[0]}",), "pool") for ip in ips)
    return Layer2Group(ips[0], addresses, tuple(candidates), **more)


class FakeCluster:
    """The cluster half: one connection over the announcer's socket."""

    def __init__(self, path: Path) -> None:
        self.writer = stream.DesiredWriter()
        self.reader = stream.UpstreamReader()
        self.reports: list[stream.Upstream] = []
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        assert until(path.exists)
        self.sock.connect(str(path))
        self.sock.sendall(stream.hello("test"))

    def tell(self, *put: Item, drop: Sequence[stream.Key] = (), why: dict[str, str] | None = None) -> None:
        self.writer.change(put, drop, why)
        for frame in self.writer.take():
            self.sock.sendall(frame)

    def state(self, *problems: str, synced: bool = True) -> None:
        numbers = (("metallb_k8s_client_config_loaded_bool", "loaded", "gauge", (), (((), 1.0),)),)
        self.sock.sendall(stream.state(stream.State(synced, problems, numbers)))

    def heard(self, kind: type, timeout: float = LIMIT) -> list[Any]:
        """Reports of this kind so far; waits for the first."""
        end = time.monotonic() + timeout
        while not any(isinstance(r, kind) for r in self.reports) and time.monotonic() < end:
            if select.select([self.sock], [], [], 0.1)[0]:
                data = self.sock.recv(65536)
                if not data:
                    break
                self.reports += self.reader.receive(data)
        return [r for r in self.reports if isinstance(r, kind)]

    def close(self) -> None:
        self.sock.close()


class Announcer:
    """The process, in the host's network namespace."""

    @property
    def program(self) -> tuple[str, ...]:
        """The module to run, and its first arguments."""
        return ("metallb_speaker",)

    def __init__(
        self,
        host: Host,
        node: str = "n1",
        *flags: str,
        key: str = "",
        directory: Path | None = None,
        mode: str = "announcer",
    ) -> None:
        self.host, self.mode = host, mode
        self._made = tempfile.TemporaryDirectory(prefix="speaker-") if directory is None else None
        self.directory = Path(self._made.name) if self._made else Path(str(directory))
        self.socket = self.directory / "desired.sock"
        self.log = self.directory / f"{node}.log"
        self._flags = (f"--node-name={node}", f"--socket={self.socket}", f"--state-dir={self.directory}", *flags)
        self._key = key
        self._clusters: list[FakeCluster] = []
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-OO", "-m", *self.program, f"--mode={self.mode}", *self._flags]
        if self._key:
            command += [f"--ml-bindaddr={self.host.ip4}", "--ml-labels=app=metallb"]
        environ = {**os.environ, "METALLB_ML_SECRET_KEY": self._key}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.host.namespace, *command],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environ,
                cwd=ROOT,
            )

    def connect(self) -> FakeCluster:
        """A cluster half, connected; closed with the announcer at the latest."""
        self._clusters.append(FakeCluster(self.socket))
        return self._clusters[-1]

    def get(self, path: str, timeout: float = LIMIT) -> str:
        with (
            inside(self.host.namespace),
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=timeout) as r,
        ):
            body: bytes = r.read()
        return body.decode()

    def ready(self) -> bool:
        try:
            return self.get("/readyz") == "ok\n"
        except OSError:
            return False

    def status(self) -> Any:
        return json.loads(self.get("/status"))

    def metric(self, line: str) -> float | None:
        """The value of the series that is spelt exactly so."""
        for found in self.get("/metrics").splitlines():
            if found.startswith(line + " "):
                return float(found.rsplit(" ", 1)[1])
        return None

    def logged(self, **fields: Any) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if all(line.get(k) == v for k, v in fields.items())]

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.send(number)
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def __enter__(self) -> Announcer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(signal.SIGKILL if error else signal.SIGTERM)
        for cluster in self._clusters:
            cluster.close()
        if error:
            sys.stderr.write(self.log.read_text())
        if self._made:
            self._made.cleanup()


def member(host: Host, node: str) -> Member:
    return Member(node, (host.ip4,), True)
