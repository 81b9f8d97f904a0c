"""Memory of the speaker's halves with 1,000 Services, against a real API server: real processes, real frames.

Judged is PSS, which shares what several processes map among them. What the process has for itself alone (USS) and
RSS, which counts everything in full, are shown beside it: PSS is between them, wherever the images run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.apiserver import ApiServer
from tests.integration.layer2_lab import Segment, inside, until
from tests.integration.speaker_lab import Announcer
from tests.integration.test_speaker_cluster import NAMESPACE, Lab

#: Half of the speaker -> MiB of PSS that it must not exceed with 1,000 Services.
TARGETS = {"announcer": 32.0, "cluster": 70.0}
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
CONFIG = """
address-pools:
- name: many
  protocol: layer2
  addresses: [10.99.0.0/16]
"""


def memory(pid: int) -> dict[str, float]:
    """MiB by kind: PSS, USS, RSS."""
    found = {"PSS": 0.0, "USS": 0.0, "RSS": 0.0}
    names = {"Pss": "PSS", "Rss": "RSS", "Private_Clean": "USS", "Private_Dirty": "USS"}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        if kind := names.get(name.rstrip(":")):
            found[kind] += int(value) / 1024
    return found


def endpoints(service: str) -> dict[str, Any]:
    """An EndpointSlice with one ready endpoint on the node."""
    return {
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.1"], "nodeName": "n1", "conditions": {"ready": True}}],
        "ports": [],
    }


def pid_of(process: Announcer) -> int:
    """Of the speaker itself: `ip netns exec` becomes it."""
    return process.process.pid


def measure(services: int) -> dict[str, dict[str, float]]:
    """Half -> memory with no Service, and with all of them."""
    out: dict[str, dict[str, float]] = {}
    with Segment("l6mem") as segment:
        node, _ = segment.host("n1"), segment.host("client")
        with inside(node.namespace), ApiServer() as server:
            lab = Lab(segment, server)
            server.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            lab.make_node("n1", node)
            lab.pod("n1", node)
            lab.config(CONFIG)
            flags = [
                f"--kubeconfig={server.kubeconfig(lab.grant())}",
                f"--namespace={NAMESPACE}",
                "--ml-labels=app=metallb",
            ]
            with (
                Announcer(node, "n1") as announcer,
                Announcer(node, "n1", *flags, mode="cluster", directory=announcer.directory) as cluster,
            ):
                halves = {"announcer": announcer, "cluster": cluster}
                assert until(announcer.ready, 60)
                for name, half in halves.items():
                    out[f"{name}, no Service"] = memory(pid_of(half))

                def one(number: int) -> None:
                    with inside(node.namespace):
                        lab.service(f"service-{number}", f"10.99.{number >> 8}.{number & 255}")
                        server.create(SLICES, endpoints(f"service-{number}"))

                with ThreadPoolExecutor(8) as pool:
                    list(pool.map(one, range(services)))
                assert until(lambda: len(announcer.logged(event="serviceAnnounced")) >= services, 120, 1.0)
                for _ in range(3):
                    announcer.get("/metrics")
                    announcer.get("/status")
                time.sleep(5)
                for name, half in halves.items():
                    out[name] = memory(pid_of(half))
    return out


def main(argv: Sequence[str]) -> int:
    """0 if every target is met."""
    parser = argparse.ArgumentParser(prog="tests.bench memory")
    parser.add_argument("--services", type=int, default=1000)
    options = parser.parse_args(argv)
    missed = 0
    figures = measure(options.services)
    for name, kinds in figures.items():
        print(f"{name:24} " + "  ".join(f"{kind} {value:6.1f} MiB" for kind, value in kinds.items()))
    for name, bound in TARGETS.items():
        met = figures[name]["PSS"] <= bound
        missed += not met
        print(
            f"{'met    ' if met else 'NOT MET'} {name} with {options.services} Services: "
            f"{figures[name]['PSS']:.1f} MiB, at most {bound:g}"
        )
    return 1 if missed else 0
