"""How fast addresses are given out, against what this machine's API server can do at all.

python -m tests.bench alloc [--services 100,1000,5000] [--rounds 3] [--skip-restart]

For each number: that many pending Services; the clock starts when the ConfigMap arrives and ends with the
last address. Beside it, on the same server, a bench client writes as many statuses and events at the same
concurrency and does nothing else: the machine's limit. A third client asks for a small object all the
while; its latency says what others feel. Then a restart, and the time from process start to the first new
address. A machine that others use is faster now and slower then: of ratios the median of the rounds is judged, the
spread is printed. Every target is printed as met or not, and exits with 1 when one is not. Run with nothing else on
the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metallb_common.kube.client import Api, connect
from metallb_common.kube.resources import EVENTS, SERVICES
from metallb_controller.apply import PARALLEL
from tests.apiserver import ADMIN, cpu_seconds, resident_mib
from tests.controller_lab import Lab, Process, lab, wait

#: Seconds to allocate by the seconds of the limit, from ENOUGH Services on.
RATIO = 1.3
ENOUGH = 1000
ROUNDS = 3
#: MiB with no Service, and KiB more for each.
IDLE, EACH = 75.0, 4.0
#: Others' latency beside us by the one beside a client that only writes: the median, and the 99th percentile.
OTHERS = {0.5: 1.25, 0.99: 1.5}


def restart_target(count: int) -> float:
    """Seconds from process start to the first new address among `count` Services."""
    return 1.0 if count <= 1000 else 3.0


def judged(what: str, value: float, target: float, unit: str = "") -> str:
    return f"       {'met    ' if value <= target else 'NOT MET'} {what}: {value:.2f}{unit}, target {target:g}{unit}"


@dataclass(frozen=True)
class Measured:
    """One round: `ratio` to the limit; by share of the requests, `others`' latency beside us by beside the limit."""

    ratio: float
    others: dict[float, float]
    lines: list[str]


CONFIG = "address-pools:\n- {name: big, protocol: layer2, addresses: [10.0.0.0/8]}\n"


class Probe:
    """Another client of the API server: one small request every 20 ms; keeps the latencies."""

    def __init__(self, server_lab: Lab) -> None:
        self._lab = server_lab
        self.latencies: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    async def _run(self) -> None:
        api = await connect(self._lab.server.kubeconfig())
        while not self._stop.is_set():
            start = time.perf_counter()
            await api.request("GET", "/api/v1/namespaces/default")
            self.latencies.append(time.perf_counter() - start)
            await asyncio.sleep(0.02)
        await api.close()

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def at(self, share: float) -> float:
        """Milliseconds that this share of the requests did not exceed."""
        ms = sorted(1000 * v for v in self.latencies) or [0.0]
        return ms[min(int(len(ms) * share), len(ms) - 1)]

    def text(self) -> str:
        return f"p50 {self.at(0.5):.1f} p99 {self.at(0.99):.1f} ms"


async def each(count: int, work: Any) -> float:
    """`work(api, i)` for every i at the controller's concurrency; seconds."""
    numbers = iter(range(count))

    async def worker() -> None:
        for i in numbers:
            await work(i)

    start = time.monotonic()
    await asyncio.gather(*(worker() for _ in range(PARALLEL)))
    return time.monotonic() - start


async def create_all(api: Api, count: int, prefix: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{}] * count

    async def one(i: int) -> None:
        body = {
            "metadata": {"name": f"{prefix}{i}", "labels": {"app": f"{prefix}{i}"}},
            "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False, "ports": [{"port": 80}]},
        }
        made[i] = await api.request("POST", SERVICES.path("default"), body=body)

    await each(count, one)
    return made


async def machine_limit(api: Api, made: list[dict[str, Any]]) -> float:
    """Seconds for one event and one status write per Service, and nothing else."""

    async def one(i: int) -> None:
        meta = made[i]["metadata"]
        name = meta["name"]
        event = {
            "metadata": {"name": f"{name}.{time.time_ns():x}", "namespace": "default"},
            "involvedObject": {"kind": "Service", "namespace": "default", "name": name, "uid": meta["uid"]},
            "type": "Normal",
            "reason": "IPAllocated",
            "message": f'Assigned IP ["11.0.{i // 250}.{i % 250}"]',
            "source": {"component": "bench"},
            "count": 1,
            "firstTimestamp": meta["creationTimestamp"],
            "lastTimestamp": meta["creationTimestamp"],
        }
        await api.request("POST", EVENTS.path("default"), body=event)
        body = {
            "metadata": {k: meta[k] for k in ("name", "namespace", "uid", "resourceVersion", "labels")},
            "spec": {"type": "LoadBalancer"},
            "status": {"loadBalancer": {"ingress": [{"ip": f"11.0.{i // 250}.{i % 250}"}]}},
        }
        await api.request("PUT", SERVICES.path("default", name, "status"), body=body)

    return await each(len(made), one)


async def delete_all(api: Api, prefix: str, count: int) -> None:
    await each(count, lambda i: api.request("DELETE", SERVICES.path("default", f"{prefix}{i}")))


def last_address(controller: Process) -> float:
    """When the controller had its last status write answered, in seconds since 1970."""
    stamps = [line["ts"] for line in controller.lines() if line.get("event") == "ipAllocated"]
    return datetime.datetime.fromisoformat(max(stamps).replace("Z", "+00:00")).timestamp()


async def measure(here: Lab, count: int, restart: bool) -> Measured:
    api = await connect(here.server.kubeconfig())
    out: list[str] = []

    async def limit_now(prefix: str) -> tuple[float, Probe]:
        made = await create_all(api, count, prefix)
        with Probe(here) as beside:
            took = await machine_limit(api, made)
        await delete_all(api, prefix, count)
        return took, beside

    with Probe(here) as quiet:
        await asyncio.sleep(1.0)
    before, beside_limit = await limit_now("before")

    controller = here.controller()
    await asyncio.to_thread(wait, controller.leading, 20)
    await asyncio.sleep(0.5)
    empty_rss = resident_mib(controller.pid)
    await create_all(api, count, "s")
    await asyncio.to_thread(wait, lambda: (controller.status().get("services") or {}).get("services", 0) >= count, 60)
    await asyncio.sleep(0.5)
    cpu = cpu_seconds(controller.pid)
    writes = "metallb_controller_status_writes_total"
    with Probe(here) as beside_us:
        here.configure(CONFIG)
        start = time.time()
        while (controller.metric(writes) or 0) < count:  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.3)
        took = last_address(controller) - start  # by its log: exact, and looking costs the run nothing
    cpu = cpu_seconds(controller.pid) - cpu
    await asyncio.sleep(1.0)
    rss = resident_mib(controller.pid)
    found = [ips for key, ips in here.addresses().items() if key.startswith("default/s")]
    assert len(set(found)) == len(found) == count, "not every Service has its own address"
    assert all(found), "not every Service has an address"
    if restart:
        for how in ("stop", "kill"):
            controller.stop() if how == "stop" else controller.kill()
            await create_all(api, 1, f"new-{how}-")
            controller = here.controller()
            path = SERVICES.path("default", f"new-{how}-0")
            while not ((await api.request("GET", path))["status"]["loadBalancer"].get("ingress")):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            seconds = time.monotonic() - controller.started
            out.append(judged(f"{how} and start to the first new address", seconds, restart_target(count), " s"))
        after = {key: ips for key, ips in here.addresses().items() if key.startswith("default/s")}
        assert sorted(after.values()) == sorted(found), "a restart changed an address"
    controller.kill()
    await delete_all(api, "s", count)
    after, _ = await limit_now("after")  # a machine's limit drifts: measured on both sides
    await api.close()
    here.clear()
    ratio = took / ((before + after) / 2)
    line = (
        f"{count:>6} pending  {took:6.2f} s ({count / took:.0f}/s)  "
        f"limit {before:.2f} and {after:.2f} s  ratio {ratio:.2f}  "
        f"CPU {cpu:.2f} s ({1000 * cpu / count:.2f} ms each)  RSS {empty_rss:.1f} -> {rss:.1f} MiB  "
        f"others: quiet {quiet.text()}, beside the limit {beside_limit.text()}, beside us {beside_us.text()}"
    )
    out.append(judged("RSS idle", empty_rss, IDLE, " MiB"))
    # What a process grows by once is not what a Service costs: tests/unit/controller/test_cost.py tells them apart.
    out.append(judged(f"RSS with {count} Services", rss, IDLE + count * EACH / 1024, " MiB"))
    return Measured(ratio, {share: beside_us.at(share) / beside_limit.at(share) for share in OTHERS}, [line, *out])


def judged_rounds(rounds: Sequence[Measured]) -> list[str]:
    """What is a ratio: the median of the rounds."""

    def median(what: str, values: Sequence[float], target: float) -> str:
        spread = "" if len(values) == 1 else f"  (median of {', '.join(f'{v:.2f}' for v in sorted(values))})"
        return judged(what, statistics.median(values), target) + spread

    out = [median("ratio to the limit", [one.ratio for one in rounds], RATIO)]
    for share, target in OTHERS.items():
        values = [one.others[share] for one in rounds]
        out.append(median(f"others' latency (p{100 * share:g}) beside us by beside the limit", values, target))
    return out


async def while_creating(here: Lab, count: int) -> str:
    """Services created while the controller is at work: what one of them waits."""
    api = await connect(here.server.kubeconfig())
    here.configure(CONFIG)
    controller = here.controller()
    await asyncio.to_thread(wait, controller.leading, 20)
    start = time.monotonic()
    await create_all(api, count, "c")
    created = time.monotonic() - start
    while (controller.metric("metallb_controller_status_writes_total") or 0) < count:  # noqa: ASYNC110 (another process)
        await asyncio.sleep(0.02)
    took = time.monotonic() - start
    controller.kill()
    await delete_all(api, "c", count)
    await api.close()
    here.clear()
    return f"{count:>6} created while it runs: created in {created:.2f} s, last address {took - created:.2f} s later"


def profile(here: Lab, count: int) -> str:
    """Where the controller's time goes, by function (cProfile slows it down: shares, not seconds)."""
    import pstats

    async def prepare() -> None:
        api = await connect(here.server.kubeconfig())
        await create_all(api, count, "p")
        await api.close()

    asyncio.run(prepare())
    here.configure(CONFIG)
    out = here.server.folder / "profile"
    import subprocess
    import sys

    from tests.apiserver import free_port

    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "cProfile", "-o", str(out), "-m", "metallb_controller"),
            *(f"--port={free_port()}", "--host=127.0.0.1", "--namespace=metallb-system"),
            f"--kubeconfig={here.server.kubeconfig()}",
        ],
        stdout=subprocess.DEVNULL,
    )
    wait(here.all_have_addresses, 300, 0.5)
    process.terminate()
    process.wait(20)
    import io

    text = io.StringIO()
    pstats.Stats(str(out), stream=text).sort_stats("tottime").print_stats(25)
    here.clear()
    return text.getvalue()


def measure_rounds(here: Lab, count: int, rounds: int, *, restart: bool) -> bool:
    """Measure, print, and give whether every target was met."""
    met, measured = True, []
    for _ in range(rounds if count >= ENOUGH else 1):
        measured.append(asyncio.run(measure(here, count, restart)))
        met &= report(measured[-1].lines)
    return met & (count < ENOUGH or report(judged_rounds(measured)))


def report(lines: Sequence[str]) -> bool:
    """Print them; whether they tell of no missed target."""
    print(*lines, sep="\n", flush=True)
    return not any("NOT MET" in line for line in lines)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench alloc", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--services", default="100,1000,5000")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"from {ENOUGH} Services on")
    parser.add_argument("--skip-restart", action="store_true")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="only: profile with N Services")
    options = parser.parse_args(argv)
    print(f"alloc: {os.cpu_count()} processors, {PARALLEL} writes at once, token {len(ADMIN)} bytes", flush=True)
    met = True
    with lab("--max-mutating-requests-inflight=400") as here:
        if options.profile:
            print(profile(here, options.profile))
            return 0
        for count in map(int, options.services.split(",")):
            met &= measure_rounds(here, count, options.rounds, restart=not options.skip_restart)
        print(asyncio.run(while_creating(here, 500)), flush=True)
    return 0 if met else 1
