"""From creating a Service to the first answer to ARP, beside a client that writes the status itself at once.

Both in turn, in the same run: what is left when the client has written the status is the speakers' share and the API
server's own. A host outside the cluster asks for the address all the time. Needs root: the embedded cluster.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench._cluster import with_product
from tests.cluster import Cluster
from tests.cluster.plan import REGISTRY
from tests.e2e import product

RATIO = 1.3
#: Of another class the controller leaves Services alone; the speakers announce whatever holds an address of a pool.
CLASS = "example.com/bench"
POOL = "172.18.100.0/23"
#: MetalLB 0.12.1 on this kind of machine, p50 and p99; and the client of that run that wrote the status itself.
METALLB = "MetalLB 0.12.1: 16.6 / 28.2 ms, where its own limit was 20.6 / 44.6 ms"


class Session:
    """One connection to the API server, kept open."""

    def __init__(self, cluster: Cluster) -> None:
        api = cluster.api
        self._connection = http.client.HTTPSConnection(api._host, api._port, timeout=10, context=api._tls)
        self._connection.connect()

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The answer. Raises RuntimeError with what the server said, if that is an error."""
        self._connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status // 100 != 2:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode(errors='replace')[:300]}")
        return dict(json.loads(text))

    def close(self) -> None:
        self._connection.close()


def create(session: Session, name: str, address: str, *, write_status: bool) -> None:
    """A Service that gets this address: by the controller, or by ourselves."""
    services = f"/api/v1/namespaces/{product.APP}/services"
    more = {"loadBalancerClass": CLASS} if write_status else {"loadBalancerIP": address}
    made = session.call("POST", services, product.service(name, "web", ipFamilies=["IPv4"], **more))
    if write_status:
        made["status"] = {"loadBalancer": {"ingress": [{"ip": address}]}}
        session.call("PUT", f"{services}/{name}/status", made)


def measure(cluster: Cluster, count: int) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds from the request to (answer, announcement), by who writes the status; `count` of each, in turn."""
    product.edit_config(cluster, product.layer2(POOL))
    product.apps(cluster, [product.backend("web", cluster.nodes[0])])
    [warm] = product.expose(
        cluster, product.service("warm", "web", ipFamilies=["IPv4"], loadBalancerIP="172.18.101.255")
    )
    product.sole_owner(cluster, warm[0])
    argv = [sys.executable, "-I", str(Path(__file__).with_name("_first_answer.py")), "eth0", REGISTRY.mac, REGISTRY.v4]
    asker = cluster.popen_in(REGISTRY.name, *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert asker.stdin is not None
    assert asker.stdout is not None
    session = Session(cluster)
    took: dict[str, list[tuple[float, float]]] = {"ours": [], "client": []}
    try:
        for number in range(2 * count):
            who = ("ours", "client")[number % 2]
            address = f"172.18.{100 + number // 250}.{1 + number % 250}"
            asker.stdin.write(address + "\n")
            asker.stdin.flush()
            time.sleep(0.01)  # it asks already
            start = time.monotonic()
            create(session, f"{who}{number}", address, write_status=who == "client")
            answered, announced = map(float, asker.stdout.readline().split())
            if not answered:
                raise RuntimeError(f"nobody answers for {address}")
            took[who].append((1000 * (answered - start), 1000 * (announced - start) if announced else 0.0))
            time.sleep(0.1)
    finally:
        session.close()
        asker.stdin.close()
        asker.wait(20)
        asker.stdout.close()
        product.remove(cluster, "--all")
    return took


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def report(took: dict[str, list[tuple[float, float]]]) -> tuple[float, float]:
    """Print it; the ratios of p50 and p99."""
    points: dict[str, tuple[float, float]] = {}
    for who, text in (("ours", "controller and speakers"), ("client", "status by the client")):
        answers = [answer for answer, _ in took[who]]
        points[who] = statistics.median(answers), percentile(answers, 0.99)
        early = [announced for _, announced in took[who] if announced]
        told = f"announced p50 {statistics.median(early):.1f} ms" if early else "never announced before"
        print(f"{text:26} p50 {points[who][0]:6.1f} ms  p99 {points[who][1]:6.1f} ms  of {len(answers)}; {told}")
    ratio, tail = (points["ours"][n] / points["client"][n] for n in (0, 1))
    print(METALLB)
    verdict = "met    " if ratio <= RATIO else "NOT MET"
    print(f"{verdict} create to first ARP answer, p50: {ratio:.2f} times, at most {RATIO}")
    print(f"        p99: {tail:.2f} times")
    return ratio, tail


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench announce", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=100, help="Services of each kind")
    parser.add_argument("--cluster", default="", help="a running embedded cluster; else one of its own")
    options = parser.parse_args(argv)
    with with_product(options.cluster) as cluster:
        ratio, _ = report(measure(cluster, options.count))
    return 0 if ratio <= RATIO else 1
