"""The allocator's cost does not grow with the pool, nor with how full it is, nor with who shares."""

from __future__ import annotations

import subprocess
import sys
import time

from metallb_common.config.model import Pool
from metallb_common.net.ranges import AddressRange
from metallb_controller.allocator import Allocator, Refusal
from metallb_controller.wishes import wish
from tests.conftest import ROOT
from tests.unit.controller.make import pool, service

COUNT = 2000
FIRST = 10 << 24


def nearly_full() -> Pool:
    """10.0.0.0/8 with one address in a thousand free: 16,777 free intervals of one address."""
    holes = tuple(
        AddressRange(4, start + 1, min(start + 999, FIRST + (1 << 24) - 1))
        for start in range(FIRST, FIRST + (1 << 24), 1000)
    )
    return Pool("p", "layer2", (AddressRange(4, FIRST, FIRST + (1 << 24) - 1),), exclude_addresses=holes)


def seconds(p: Pool, families: str = "4") -> float:
    """CPU seconds for COUNT allocations and releases, the best of three."""
    asked = [wish(service(f"s{i}", families=families), None) for i in range(COUNT)]
    best = float("inf")
    for _ in range(3):
        allocator = Allocator()
        allocator.set_pools((p,))
        start = time.process_time()
        for one in asked:
            found = allocator.find(one)
            assert not isinstance(found, Refusal)
            allocator.hold(one.key, found)
        for one in asked:
            allocator.release(one.key)
        best = min(best, time.process_time() - start)
    return best


def test_size_and_fill_do_not_matter() -> None:
    small = seconds(pool("p", "10.0.0.0/20"))
    for name, took in {
        "an empty /8": seconds(pool("p", "10.0.0.0/8")),
        "an empty /8 without .0 and .255": seconds(pool("p", "10.0.0.0/8", avoid_buggy_ips=True)),
        "a /8 that is 99.9 % full": seconds(nearly_full()),
        "an IPv6 /64": seconds(pool("p", "2001:db8::/64"), "6"),
    }.items():
        assert took < 3 * small + 0.02, f"{name}: {took:.3f} s, a /20: {small:.3f} s"


def test_the_nearly_full_pool_is_counted_right() -> None:
    allocator = Allocator()
    allocator.set_pools((nearly_full(),))
    assert allocator.table.by_name["p"].size == 16_778


def test_many_sharers_of_one_key_cost_no_search() -> None:
    """Under one key and one port, every Service needs an address of its own: found at once."""

    def once(share: str) -> float:
        allocator = Allocator()
        allocator.set_pools((pool("p", "10.0.0.0/8"),))
        start = time.process_time()
        for i in range(COUNT):
            one = wish(service(f"s{i}", share=share), None)
            found = allocator.find(one)
            assert not isinstance(found, Refusal)
            allocator.hold(one.key, found)
        return time.process_time() - start

    def took(share: str) -> float:
        return min(once(share) for _ in range(3))

    assert took("k") < 4 * took("") + 0.05


def test_many_addresses_of_one_key_cost_no_search() -> None:
    """Whoever joins finds the first address with the port free at once, however many have it taken."""

    def each(count: int) -> float:
        """CPU seconds for each of `count` joiners, when `count` addresses are held under their key."""
        allocator = Allocator()
        allocator.set_pools((pool("p", "10.0.0.0/8"),))
        asked = [wish(service(f"s{i}", share="kl"[i % 2]), None) for i in range(count)]
        asked += [wish(service(f"t{i}", share="kl"[i % 2], ports=("TCP/443",)), None) for i in range(count)]
        for i, one in enumerate(asked):
            if i == count:
                start = time.process_time()
            found = allocator.find(one)
            assert not isinstance(found, Refusal)
            allocator.hold(one.key, found)
        took = time.process_time() - start
        assert allocator.in_use("p") == count
        return took / count

    assert each(8 * COUNT) < 4 * each(COUNT // 4) + 0.00005


def test_ten_thousand_pools() -> None:
    pools = tuple(pool(f"p{i:05}", f"10.{i >> 8}.{i & 255}.0/24") for i in range(10_000))
    allocator = Allocator()
    start = time.process_time()
    allocator.set_pools(pools)
    assert time.process_time() - start < 3.0
    assert allocator.table.find(allocator.table.by_name["p09999"].spaces[4].lowest() or 0) == "p09999"  # type: ignore[arg-type]


MEMORY = """
import json, sys
from metallb_controller.assigner import Assigner
from metallb_controller.wishes import Rules
from tests.unit.controller.make import config, pool


class Outside:
    def __init__(self):
        self.todo = []
    def submit(self, key):
        self.todo.append(key)
    def tell(self, view, say): ...
    def freed(self): ...
    def accepted(self, config): ...
    def stirred(self): ...
    def counted(self, *, error=False): ...


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def raw(i, version, status, annotations):
    # What a manifest with some labels becomes; each Service has its own name, labels and selector.
    name = f"customer-{i:05}-frontend"
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "shop", "team": f"team-{i % 50}"}
    spec = {"type": "LoadBalancer", "clusterIPs": [f"10.96.{i >> 8}.{i & 255}"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "externalTrafficPolicy": "Cluster", "selector": {"app": name},
            "ports": [{"name": n, "port": p, "protocol": "TCP"} for n, p in (("http", 80), ("https", 443))]}
    meta = {"name": name, "namespace": f"team-{i % 50}", "uid": f"0b3cf9d5-3c3e-4c8f-9d5e-{i:012}", "labels": labels,
            "resourceVersion": str(version), "annotations": annotations,
            "creationTimestamp": f"2026-01-01T{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}Z"}
    return json.loads(json.dumps({"metadata": meta, "spec": spec, "status": {"loadBalancer": status}}))


outside = Outside()
assigner = Assigner(Rules(), outside)
assigner.replace([])
assigner.accept(config(pool("p", "10.0.0.0/8")))

def fill(first, last):
    for i in range(first, last):
        assigner.upsert(assigner.parse(raw(i, i + 1, {}, {})))
    while assigner.busy:
        assigner.reconcile(100)
    for key in outside.todo:
        tracked, decided = assigner.work(key)
        assigner.begins(key, decided)
        status = {"ingress": [{"ip": ip} for ip in decided.ingress]}
        i = int(key.split("-")[-2])
        assigner.written(assigner.parse(raw(i, 100_000 + i, status, {"metallb.io/ip-allocated-from-pool": "p"})))
        assigner.ended(key, happened=True)
    outside.todo.clear()
    while assigner.busy:
        assigner.reconcile(100)

fill(0, 1000)
before = resident()
fill(1000, 6000)
assert len(assigner.allocator.held) == 6000
print((resident() - before) / 5000)
"""


def test_what_a_service_costs_in_memory() -> None:
    """At most 4 KiB of resident memory each, from the list to the written address."""
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) <= 4096, done.stdout
