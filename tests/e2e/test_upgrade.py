"""In place: from a release of the original chart to ours, and back, with Services that hold addresses.

A client connects anew every 50 ms all the while. During the roll old and new speakers may not hear each other, so
that two nodes answer for an address at times; for externalTrafficPolicy Cluster either delivers.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.e2e import original, product

pytestmark = [pytest.mark.cluster, pytest.mark.root]

SERVICES = [f"held{i}" for i in range(5)]
EVERY = 0.05
#: How long one attempt may take. A SYN that is lost is sent again after a second, which is a failure here.
PATIENCE = 0.9
#: An attempt during which the client itself did not get to run for so long says nothing of the address.
STALL = 0.3
IMAGES = {c: f"localhost/metallb/{c}:v1.0.0" for c in ("controller", "speaker")}


class Client:
    """Connects anew to an address at a steady rate from the client host, and counts what fails."""

    def __init__(self, lab: Cluster, address: str) -> None:
        self.lab, self.address = lab, address
        self.attempts = 0
        self.refused: list[str] = []  # no connection came about
        self.broken: list[str] = []  # it did, and ended when its address moved: connection tracking is per node
        self.unexplained: list[str] = []  # it did, and ended while the address stayed where it was
        self.stalled: list[str] = []  # the client did not get to run meanwhile
        self.moves: list[str] = []
        self._seen: list[tuple[str, str]] = []  # (what is said of the attempt, "" for a page; to whom it went)
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Client:
        self.start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
        self._thread.join(30)
        if self._process is not None:
            self._process.communicate()  # closes its end
        self.judge()

    @property
    def so_far(self) -> int:
        """How many attempts there were."""
        return len(self._seen)

    def _run(self) -> None:
        # Behind each answer stands to which hardware address the client sends then.
        script = (
            "import socket,threading,time\n"
            "stalled=[0.0]\n"  # when the last stall was over
            "def notice():\n"
            "  while True:\n"
            "    t=time.monotonic(); time.sleep(0.05)\n"
            f"    if time.monotonic()-t>{STALL}: stalled[0]=time.monotonic()\n"
            "threading.Thread(target=notice,daemon=True).start()\n"
            "while True:\n"
            "  t=time.monotonic(); ok=0; phase='connect'; why='answer'\n"
            "  try:\n"
            f"    s=socket.create_connection(({self.address!r},{product.PORT}),{PATIENCE})\n"
            "    phase='open'\n"
            "    s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); ok=int(b'pod=' in s.makefile('rb').read()); s.close()\n"
            "  except OSError as e: why=type(e).__name__\n"
            f"  mac=[l.split()[3] for l in open('/proc/net/arp') if l.startswith({self.address + ' '!r})]\n"
            "  if not ok:\n"
            "    time.sleep(0.1)\n"  # a stall that has just ended is known then
            "    if stalled[0]>t: phase='stalled'\n"
            "  print(ok or f'{phase}:{why}@{t:.2f}', *mac, sep=',', flush=True)\n"
            f"  time.sleep(max(0,{EVERY}-(time.monotonic()-t)))\n"
        )
        self._process = self.lab.popen_in("client", "python3", "-c", script, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said, _, mac = line.strip().partition(",")
            self._seen.append(("" if said == "1" else said, mac))

    def judge(self) -> None:
        """Sort the attempts, once the client has ended. The clock is the machine's, the same in every process."""
        self.attempts = len(self._seen)
        macs = [mac for _, mac in self._seen]
        self.moves = [new for old, new in pairwise(macs) if old != new]
        for i, (said, _) in enumerate(self._seen):
            if not said:
                continue
            phase, _, rest = said.partition(":")
            why, _, when = rest.partition("@")
            told = f"{why} at {float(when) - self.start:.1f} s"
            # From the attempt before to the one after: the address may be noticed at its new place a moment later.
            moved = len(set(macs[max(0, i - 1) : i + 2])) > 1
            if phase == "stalled":
                self.stalled.append(told)
                continue
            (self.refused if phase == "connect" else self.broken if moved else self.unexplained).append(told)


@pytest.fixture
def held(lab: Cluster, tmp_path: Path) -> Iterator[dict[str, list[str]]]:
    """A release of the original chart, whose Services hold addresses."""
    product.clean(lab)
    config = product.layer2()
    chart = original.chart(tmp_path / "original", product.NAMESPACE, config, IMAGES)
    install = ["install", "metallb", str(chart), "-n", product.NAMESPACE, "--create-namespace", "--wait"]
    lab.helm(*install, "--timeout", "360s")
    product.apps(lab, [product.backend("web", replicas=2)])
    found = product.expose(lab, *[product.service(name, "web") for name in SERVICES])
    yield dict(zip(SERVICES, found, strict=True))
    product.clean(lab)


def upgrade(lab: Cluster, values: str, *options: str, program: str = "helm") -> None:
    command = ["upgrade", "metallb", str(product.CHART), "-n", product.NAMESPACE, "-f", "-", *options]
    lab.tool(program, *command, "--wait", "--timeout", "240s", input=values, timeout=300)


def now(lab: Cluster) -> dict[str, list[str]]:
    return {name: product.addresses(lab, name) for name in SERVICES}


def changes(lab: Cluster, since: dict[str, str]) -> list[str]:
    """Services whose object was written since, by resourceVersion."""
    return [n for n, version in versions(lab).items() if since[n] != version]


def versions(lab: Cluster) -> dict[str, str]:
    items: list[dict[str, Any]] = lab.json("-n", product.APP, "services")["items"]
    return {s["metadata"]["name"]: s["metadata"]["resourceVersion"] for s in items if s["metadata"]["name"] in SERVICES}


def test_upgrade_in_place_and_back(lab: Cluster, held: dict[str, list[str]]) -> None:
    [address] = held[SERVICES[0]]
    lab.wait("the page", lambda: "pod=" in lab.fetch(address), 30)
    selectors = {
        k: lab.json("-n", product.NAMESPACE, k)["items"][0]["spec"]["selector"] for k in ("deployment", "daemonset")
    }
    values = json.dumps({"configInline": product.layer2()})
    with Client(lab, address) as client:
        upgrade(lab, values)
        time.sleep(5)
        upgraded = client.so_far
        assert now(lab) == held
        for pod in product.pods(lab, product.BY_HELM["speaker"]):
            assert [c["name"] for c in pod["spec"]["containers"]] == ["speaker", "cluster"]
        lab.helm("rollback", "metallb", "1", "-n", product.NAMESPACE, "--wait", "--timeout", "240s")
        time.sleep(5)
        assert now(lab) == held
    print(
        f"\nupgrade and back: {client.attempts} attempts ({upgraded} in the upgrade), "
        f"not connected {client.refused}; {len(client.moves)} moves, connections cut by them {client.broken}; "
        f"left out, for the machine stalled: {client.stalled}"
    )
    for kind, before in selectors.items():
        assert lab.json("-n", product.NAMESPACE, kind)["items"][0]["spec"]["selector"] == before
    for pod in product.pods(lab, product.BY_HELM["speaker"]):
        assert [c["name"] for c in pod["spec"]["containers"]] == ["speaker"]
    assert upgraded > 100
    assert client.refused == [], "a failed attempt"
    # Layer 2 hands no open connection over: an address that moves cuts what is open at that moment, and nothing else.
    assert client.unexplained == []
    assert len(client.broken) <= len(client.moves)


@pytest.mark.parametrize("program", ["helm", "helm4"])
def test_nothing_of_the_original_is_left_behind(lab: Cluster, held: dict[str, list[str]], program: str) -> None:
    """After the upgrade every object is one that our chart renders; by Helm 4, too, of what Helm 3 made."""
    values = json.dumps({"configInline": product.layer2()})
    reuse = ["upgrade", "metallb", str(product.CHART), "-n", product.NAMESPACE, "--reuse-values", "-f", "-"]
    told = lab.tool(program, *reuse, input=values, check=False)
    assert told.returncode != 0, "took the old chart's defaults for ours"
    assert "use --reset-then-reuse-values" in told.stderr
    assert product.pods(lab, product.BY_HELM["speaker"])[0]["spec"]["containers"][0]["args"][0] == "--port=7472"
    upgrade(lab, values, "--reset-then-reuse-values", program=program)
    labelled = lab.json("-n", product.NAMESPACE, "all,configmap,secret,serviceaccount,role,rolebinding", "-l",
                        "app.kubernetes.io/managed-by=Helm")["items"]  # fmt: skip
    assert {o["metadata"]["labels"]["helm.sh/chart"] for o in labelled} == {"metallb-1.0.0"}
    assert now(lab) == held
    before = versions(lab)
    time.sleep(10)
    assert changes(lab, before) == [], "a Service was written to without a reason"
