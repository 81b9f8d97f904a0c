"""In place: from a release of the original chart to ours, and back, with Services that hold addresses.

A client connects anew every 50 ms all the while. During the roll old and new speakers may not hear each other, so
that two nodes answer for an address at times; for externalTrafficPolicy Cluster either delivers.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
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
#: How often the address can move: away from its node and back, in either direction of the upgrade.
MOVES = 4
IMAGES = {c: f"localhost/metallb/{c}:v1.0.0" for c in ("controller", "speaker")}


class Client:
    """Connects anew to an address at a steady rate from the client host, and counts what fails."""

    def __init__(self, lab: Cluster, address: str) -> None:
        self.lab, self.address = lab, address
        self.attempts = 0
        self.refused: list[str] = []  # no connection came about
        self.broken: list[str] = []  # it did, and ended when its address moved: connection tracking is per node
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Client:
        self.start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(30)

    def _run(self) -> None:
        # One process per batch, because starting one takes longer than an attempt.
        script = (
            "import socket,sys,time\n"
            f"for _ in range(20):\n"
            "  t=time.monotonic(); ok=0; phase='connect'; why='answer'\n"
            "  try:\n"
            f"    s=socket.create_connection(({self.address!r},{product.PORT}),{PATIENCE})\n"
            "    phase='open'\n"
            "    s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); ok=int(b'pod=' in s.makefile('rb').read()); s.close()\n"
            "  except OSError as e: why=type(e).__name__\n"
            "  print(ok or f'{phase}:{why}@{t:.2f}')\n"
            f"  time.sleep(max(0,{EVERY}-(time.monotonic()-t)))\n"
        )
        while not self._end.is_set():
            told = self.lab.run_in("client", "python3", "-c", script)
            for line in told.stdout.split():
                self.attempts += 1
                if line != "1":  # the clock is the machine's, the same in every process
                    phase, _, rest = line.partition(":")
                    why, _, when = rest.partition("@")
                    said = f"{why} at {float(when) - self.start:.1f} s"
                    (self.refused if phase == "connect" else self.broken).append(said)


@pytest.fixture
def held(lab: Cluster, tmp_path: Path) -> Iterator[dict[str, list[str]]]:
    """A release of the original chart, whose Services hold addresses."""
    product.clean(lab)
    config = product.layer2()
    chart = original.chart(tmp_path / "original", product.NAMESPACE, config, IMAGES)
    install = ["install", "metallb", str(chart), "-n", product.NAMESPACE, "--create-namespace", "--wait"]
    lab.helm(*install, "--timeout", "120s")
    product.apps(lab, [product.backend("web", replicas=2)])
    found = product.expose(lab, *[product.service(name, "web") for name in SERVICES])
    yield dict(zip(SERVICES, found, strict=True))
    product.clean(lab)


def upgrade(lab: Cluster, values: str) -> None:
    command = ["upgrade", "metallb", str(product.CHART), "-n", product.NAMESPACE, "-f", "-"]
    lab.helm(*command, "--wait", "--timeout", "240s", input=values)


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
        upgraded = client.attempts
        assert now(lab) == held
        for pod in product.pods(lab, product.BY_HELM["speaker"]):
            assert [c["name"] for c in pod["spec"]["containers"]] == ["speaker", "cluster"]
        lab.helm("rollback", "metallb", "1", "-n", product.NAMESPACE, "--wait", "--timeout", "240s")
        time.sleep(5)
        assert now(lab) == held
    print(
        f"\nupgrade and back: {client.attempts} attempts ({upgraded} in the upgrade), "
        f"not connected {client.refused}, broken {client.broken}"
    )
    for kind, before in selectors.items():
        assert lab.json("-n", product.NAMESPACE, kind)["items"][0]["spec"]["selector"] == before
    for pod in product.pods(lab, product.BY_HELM["speaker"]):
        assert [c["name"] for c in pod["spec"]["containers"]] == ["speaker"]
    assert upgraded > 100
    assert client.refused == []
    assert len(client.broken) <= MOVES


def test_nothing_of_the_original_is_left_behind(lab: Cluster, held: dict[str, list[str]]) -> None:
    """After the upgrade every object of the release is one that our chart renders."""
    values = json.dumps({"configInline": product.layer2()})
    upgrade(lab, values)
    labelled = lab.json("-n", product.NAMESPACE, "all,configmap,secret,serviceaccount,role,rolebinding", "-l",
                        "app.kubernetes.io/managed-by=Helm")["items"]  # fmt: skip
    assert {o["metadata"]["labels"]["helm.sh/chart"] for o in labelled} == {"metallb-1.0.0"}
    assert now(lab) == held
    before = versions(lab)
    time.sleep(10)
    assert changes(lab, before) == [], "a Service was written to without a reason"
