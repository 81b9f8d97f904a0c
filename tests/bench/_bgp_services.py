"""From Services in a real API server to routes in a router: controller, speaker and BIRD as they are.

One node, one router on a wire. The API server runs on the node's loopback; there is no kubelet, so the bench
writes the node, the pod and the EndpointSlices. A watch of its own says when each status is there, the router's
kernel when each route is: both by the one clock of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from metallb_common.kube.client import Api, connect
from metallb_common.kube.resources import ENDPOINT_SLICES, SERVICES
from metallb_controller.apply import PARALLEL
from tests.apiserver import ADMIN, ApiServer, cpu_seconds
from tests.controller_lab import Process
from tests.integration.layer2_lab import Host, Segment, inside
from tests.integration.speaker_lab import Announcer
from tests.integration.test_speaker_cluster import NAMESPACE, Lab

#: What the issue asks for, in seconds.
FIRST_ROUTE, LAST_ROUTE = 0.030, 0.050


class Router:
    """BIRD in the router's namespace; it installs what it learns, and the kernel tells when."""

    def __init__(self, host: Host, node: Host, folder: Path) -> None:
        self._host, self._folder = host, folder
        (folder / "bird.conf").write_text(
            f"router id {host.ip4};\nprotocol device {{}}\n"
            "protocol kernel { ipv4 { export all; import none; }; scan time 3600; }\n"
            f"protocol bgp node {{ local {host.ip4} as 64513; neighbor {node.ip4} as 64512; passive on;\n"
            "  ipv4 { import all; export none; }; }\n"
        )
        self._told = open(folder / "routes", "w+")  # noqa: SIM115 (closed by `close`)
        self._processes = [
            self._run("bird", "-f", "-c", str(folder / "bird.conf"), "-s", str(folder / "ctl")),
            self._run("ip", "-rcvbuf", "67108864", "-ts", "monitor", "route", stdout=self._told),
        ]

    def _run(self, *command: str, **how: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["nsenter", f"--net=/run/netns/{self._host.namespace}", *command], **how)

    def routes(self) -> dict[str, float]:
        """Address -> when its route came, in seconds since 1970; the first time, should it come twice."""
        out: dict[str, float] = {}
        for line in (self._folder / "routes").read_text().splitlines():
            stamp, _, rest = line.partition("] ")
            if rest.startswith("10.64."):
                out.setdefault(rest.split()[0], datetime.fromisoformat(stamp[1:]).timestamp())
        return out

    def count(self) -> int:
        """Routes in the kernel's table now."""
        table = ["nsenter", f"--net=/run/netns/{self._host.namespace}", "ip", "route", "show", "proto", "bird"]
        return subprocess.run(table, capture_output=True, text=True).stdout.count("\n")

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._told.close()


class Statuses:
    """When each Service's status was there, as a watch of its own sees it."""

    def __init__(self, server: ApiServer) -> None:
        version = server.get("/api/v1/services?limit=1")["metadata"]["resourceVersion"]
        script = str(Path(__file__).with_name("_status_watch.py"))
        self._told = server.folder / "statuses"  # a file: a pipe would fill, and hold the watch up
        with self._told.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, script, server.url, str(server.folder / "ca.crt"), ADMIN, version], stdout=out
            )
        _until(self._told.read_text, 10)

    def end(self) -> dict[str, float]:
        self._process.kill()
        self._process.wait()
        whole = [line.split() for line in self._told.read_text().splitlines()]
        return {words[1]: float(words[0]) for words in whole if len(words) == 2}


class Bench:
    """The lab with everything in it; a verb for each thing that a measurement does."""

    def __init__(self, lab: Lab, router: Router) -> None:
        self.lab, self.router = lab, router
        self._controller: Process | None = None

    def start_controller(self) -> None:
        self._controller = Process(self.lab.server)
        _until(self._controller.leading, 30)

    def stop_controller(self) -> None:
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def run(self, work: Any) -> Any:
        async def whole() -> Any:
            api = await connect(self.lab.server.kubeconfig())
            try:
                return await work(api)
            finally:
                await api.close()

        return asyncio.run(whole())

    def slices(self, names: list[str]) -> None:
        self.run(lambda api: _each(names, lambda name: _slice(api, name)))

    def services(self, names: list[str]) -> None:
        self.run(lambda api: _each(names, lambda name: _service(api, name)))

    def remove(self, names: list[str]) -> None:
        """Services and slices; waits until the router has no route."""

        async def one(api: Api, name: str) -> None:
            await api.request("DELETE", SERVICES.path("default", name))
            await api.request("DELETE", ENDPOINT_SLICES.path("default", name))

        self.run(lambda api: _each(names, lambda name: one(api, name)))
        _until(lambda: self.router.count() == 0, 60)

    def wait_routes(self, known: set[str], count: int, seconds: float) -> dict[str, float]:
        """Address -> time, of `count` routes that came after those `known`; looks rarely, since looking costs."""
        end = time.monotonic() + seconds
        while len(new := {a: t for a, t in self.router.routes().items() if a not in known}) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"{len(new)} of {count} routes are there")
            time.sleep(1)
        return new


async def _each(names: list[str], work: Any) -> None:
    """`work(name)` for every name, as many at once as the controller writes."""
    queue = iter(names)

    async def worker() -> None:
        for name in queue:
            await work(name)

    await asyncio.gather(*(worker() for _ in range(PARALLEL)))


async def _service(api: Api, name: str) -> None:
    spec = {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False, "ports": [{"port": 80}]}
    await api.request("POST", SERVICES.path("default"), body={"metadata": {"name": name}, "spec": spec})


async def _slice(api: Api, name: str) -> None:
    body = {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.1"], "nodeName": "n1", "conditions": {"ready": True}}],
        "ports": [],
    }
    await api.request("POST", ENDPOINT_SLICES.path("default"), body=body)


def _until(what: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def config(router: Host, pool: str) -> str:
    """A pool of its own for each measurement, so that none meets the routes of another. It has 16,384 addresses."""
    return (
        f"peers:\n- {{peer-address: {router.ip4}, peer-asn: 64513, my-asn: 64512, connect-time: 1s}}\n"
        f"address-pools:\n- {{name: routed, protocol: bgp, addresses: ['{pool}']}}\n"
    )


@contextlib.contextmanager
def bench() -> Iterator[tuple[Bench, Announcer]]:
    with Segment("bgpsvc") as segment:
        node, host = segment.host("n1"), segment.host("client")
        with inside(node.namespace), ApiServer("--max-mutating-requests-inflight=400") as server:
            lab = Lab(segment, server)
            server.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            lab.make_node("n1", node)
            lab.pod("n1", node)
            lab.config(config(host, "10.64.0.0/18"))
            router = Router(host, node, server.folder)
            flags = [f"--kubeconfig={server.kubeconfig()}", f"--namespace={NAMESPACE}", "-config=config"]
            flags += ["-ml-labels", "app=metallb,component=speaker"]
            made = Bench(lab, router)
            try:
                with Announcer(node, "n1", *flags, mode="both") as speaker:
                    _until(speaker.ready, 30)
                    _until(lambda: speaker.status()["bgp"][0]["state"] == "Established", 30)
                    yield made, speaker
            finally:
                made.stop_controller()
                router.close()


def one_by_one(here: Bench, count: int) -> list[str]:
    """Services created one at a time, with the controller at work: what the user of one waits for."""
    names = [f"one{i}" for i in range(count)]
    here.slices(names)
    here.start_controller()
    statuses = Statuses(here.lab.server)
    created: list[float] = []

    async def create(api: Api) -> None:
        for name in names:
            created.append(time.time())
            await _service(api, name)
            await asyncio.sleep(0.1)

    here.run(create)
    routes = here.wait_routes(set(), count, 30)
    seen = statuses.end()
    order = sorted(routes, key=lambda address: routes[address])
    whole = [routes[address] - start for address, start in zip(order, created, strict=True)]
    late = [routes[address] - seen[address] for address in order]
    here.stop_controller()
    here.remove(names)
    out = [_line("a Service's creation to its route, p50", statistics.median(whole), FIRST_ROUTE)]
    out.append(_line("  the slowest of them", max(whole)))
    out.append(_line("a Service's status to its route, p50", statistics.median(late), FIRST_ROUTE))
    out.append(_line("  the slowest of them", max(late), LAST_ROUTE))
    return [f"{count} Services, one after the other:", *out]


def all_at_once(here: Bench, speaker: Announcer, count: int, pool: str) -> list[str]:
    """Services that wait for an address; the controller starts and gives all of them one."""
    here.lab.config(config(here.lab.client, pool))
    names = [f"all{i}" for i in range(count)]
    here.slices(names)
    here.services(names)
    time.sleep(2)
    known = set(here.router.routes())
    cluster = int(Path(f"/proc/{speaker.process.pid}/task/{speaker.process.pid}/children").read_text().split()[0])
    before = {pid: cpu_seconds(pid) for pid in (speaker.process.pid, cluster)}
    statuses = Statuses(here.lab.server)
    here.start_controller()
    routes = here.wait_routes(known, count, 60 + count / 50)
    used = {pid: cpu_seconds(pid) - was for pid, was in before.items()}
    seen = statuses.end()
    here.stop_controller()
    late = sorted(routes[address] - seen[address] for address in routes)
    first, last = min(seen.values()), max(seen.values())
    out = [
        f"{count} Services at once: statuses in {last - first:.2f} s ({count / (last - first):.0f} a second); "
        f"CPU per Service: announcer {used[speaker.process.pid] / count * 1e3:.2f} ms, "
        f"cluster half {used[cluster] / count * 1e3:.2f} ms",
        _line("the first status to the last route", max(routes.values()) - first),
        _line("the last status to the last route", max(routes.values()) - last, LAST_ROUTE),
        _line("each status to its route, p50", statistics.median(late)),
        _line("  p99", late[int(len(late) * 0.99) - 1]),
    ]
    here.remove(names)
    return out


def _line(what: str, seconds: float, target: float | None = None) -> str:
    verdict = "" if target is None else f"  target {target * 1e3:.0f} ms: {'met' if seconds <= target else 'NOT MET'}"
    return f"  {what:45} {seconds * 1e3:9.1f} ms{verdict}"


def run(counts: list[int], single: int) -> bool:
    """Print everything; whether every target is met. Each measurement has a pool of its own (see `config`)."""
    met = True
    with bench() as (here, speaker):
        measures: list[Callable[[], list[str]]] = [lambda: one_by_one(here, single)]
        for number, count in enumerate(counts, 1):
            measures.append(partial(all_at_once, here, speaker, count, f"10.64.{number * 64}.0/18"))
        for measure in measures:
            for line in measure():
                met &= "NOT MET" not in line
                print(line, flush=True)
    return met
