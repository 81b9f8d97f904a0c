"""Two namespaces on one cable, our agent in one, a router in the other."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OURS = {"ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}
ROUTER = {"ipv4": "192.0.2.2", "ipv6": "2001:db8::2"}
OUR_ASN, EXTERNAL_ASN = 64512, 64513


def sh(*command: str, check: bool = True) -> str:
    told = subprocess.run(command, capture_output=True, text=True)
    if check and told.returncode:
        raise RuntimeError(f"{' '.join(command)}: {told.stderr.strip()}")
    return told.stdout


def until(what: str, test: Callable[[], object], seconds: float = 60, every: float = 0.05) -> None:
    """Wait until `test` is true. Raises AssertionError that names `what`.

    The limit is for a machine that does much else or stands still for seconds: it is no target.
    """
    end = time.monotonic() + seconds
    while True:
        value = test()
        if value:
            return
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what} (last: {value!r})")
        time.sleep(every)


class Lab:
    """`ours` and `router` namespaces, joined by a veth pair, both families; or, `far`, by a host that forwards."""

    def __init__(self, folder: Path, *, far: bool = False) -> None:
        self.folder = folder
        self.far = far
        tag = f"{os.getpid()}-{time.monotonic_ns() % 10**6}"
        self.ours, self.router = f"mlbbgp-a-{tag}", f"mlbbgp-b-{tag}"
        self._hop = f"mlbbgp-h-{tag}"
        self._namespaces = (self.ours, self.router, self._hop) if far else (self.ours, self.router)
        self.processes: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Lab:
        for name in self._namespaces:
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        if self.far:
            self._join_by_hop()
            return self
        sh("ip", "-n", self.ours, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.router)
        for name, addresses in ((self.ours, OURS), (self.router, ROUTER)):
            sh("ip", "-n", name, "link", "set", "eth0", "up")
            sh("ip", "-n", name, "addr", "add", f"{addresses['ipv4']}/24", "dev", "eth0")
            sh("ip", "-n", name, "addr", "add", f"{addresses['ipv6']}/64", "dev", "eth0", "nodad")
        return self

    def _join_by_hop(self) -> None:
        """The same addresses, but as hosts' own, on two links: every packet loses a hop on the way."""
        self.forward(self._hop)
        for number, (name, addresses) in enumerate(((self.ours, OURS), (self.router, ROUTER)), 1):
            port = f"to{number}"
            sh("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self._hop)
            sh("ip", "-n", name, "link", "set", "eth0", "up")
            sh("ip", "-n", self._hop, "link", "set", port, "up")
            for family, length, gateway in (("ipv4", 32, f"10.9.{number}.1"), ("ipv6", 128, f"fd09:{number}::1")):
                nodad = ("nodad",) if family == "ipv6" else ()
                sh("ip", "-n", name, "addr", "add", f"{addresses[family]}/{length}", "dev", "eth0", *nodad)
                sh("ip", "-n", self._hop, "addr", "add", f"{gateway}/{length}", "dev", port, *nodad)
                sh("ip", "-n", self._hop, "route", "add", f"{addresses[family]}/{length}", "dev", port)
                sh("ip", "-n", name, "route", "add", f"{gateway}/{length}", "dev", "eth0")
                sh("ip", "-n", name, "route", "add", "default", "via", gateway, "src", addresses[family])

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        for name in self._namespaces:
            sh("ip", "netns", "del", name, check=False)

    def popen(self, netns: str, *command: str, log: str, **kw: Any) -> subprocess.Popen[Any]:
        path = shutil.which(command[0]) or command[0]
        with open(self.folder / log, "ab") as out:
            process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{netns}", path, *command[1:]],
                **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, **kw},
            )
        self.processes.append(process)
        return process

    def in_router(self, *command: str) -> str:
        return sh("nsenter", f"--net=/run/netns/{self.router}", *command, check=False)

    def forward(self, *namespaces: str) -> None:
        """Let the kernel forward, as every Kubernetes node and every router does."""
        for name in namespaces:
            for setting in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
                sh("nsenter", f"--net=/run/netns/{name}", "sysctl", "-qw", setting)

    def cable(self, up: bool) -> None:
        """Unplug or plug: silence, not a closed connection (both ends keep their carrier: frames are dropped)."""
        if up:
            for name in (self.router, self.ours):
                sh("nsenter", f"--net=/run/netns/{name}", "nft", "delete", "table", "netdev", "cut")
        else:
            rules = "table netdev cut { chain in { type filter hook ingress device eth0 priority 0; policy drop; }; }"
            sh("nsenter", f"--net=/run/netns/{self.router}", "nft", rules)
            # Both directions: what the router sends is dropped at our end.
            sh("nsenter", f"--net=/run/netns/{self.ours}", "nft", rules)


class Agent:
    """Our side, as its own process."""

    def __init__(self, lab: Lab, log: str = "agent.log") -> None:
        self.process = lab.popen(
            lab.ours,
            sys.executable,
            "-m",
            "tests.integration.bgp.agent",
            OURS["ipv4"],
            log=log,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.peers: list[dict[str, Any]] = []
        self.routes: list[dict[str, Any]] = []
        self.timers: list[dict[str, Any]] = []

    def order(self, **wish: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(wish) + "\n")
        self.process.stdin.flush()

    def apply(self) -> None:
        self.order(peers=self.peers, routes=self.routes, timers=self.timers)

    def tell(self) -> dict[str, Any]:
        self.order(status=True)
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())  # type: ignore[no-any-return]

    def state(self) -> str:
        return str(self.tell()["status"][0]["state"])

    def wait_established(self) -> None:
        until("the session is Established", lambda: self.state() == "Established" or None)


def peer(transport: str, **changes: Any) -> dict[str, Any]:
    return {
        "key": "router",
        "my_asn": OUR_ASN,
        "peer_asn": EXTERNAL_ASN,
        "address": ROUTER[transport],
        "port": 179,
        "source": OURS[transport],
        "hold_time": 90,
        "keepalive_time": 30,
        "connect_time": 1,
        "router_id": "",
        **changes,
    }


@contextlib.contextmanager
def agent(lab: Lab, **kw: Any) -> Iterator[Agent]:
    yield Agent(lab, **kw)
