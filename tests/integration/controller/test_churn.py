"""Controllers killed at random moments while Services come, change and go.

At the end: no address with two owners, none leaked, none given from outside its pool, and nothing
happened to a Service's address that no event told of.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import ssl
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from tests.apiserver import ADMIN, ApiServer, Conflict
from tests.controller_lab import OUR_RIGHTS, Lab, Process, Start, only, wait

CONFIG = """
address-pools:
- {name: a, protocol: layer2, addresses: [10.1.0.0/24], avoid-buggy-ips: true}
- {name: b, protocol: layer2, addresses: [10.2.0.0/24]}
- {name: c, protocol: layer2, addresses: [10.3.0.0/25], auto-assign: false}
"""
NETWORKS = {
    name: ipaddress.ip_network(net) for name, net in (("a", "10.1.0.0/24"), ("b", "10.2.0.0/24"), ("c", "10.3.0.0/25"))
}


class Watcher:
    """Keeps every version of every Service, and every event, as a client of its own."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._stop = False
        self.versions: dict[str, list[tuple[int, dict[str, Any] | None]]] = {}  # uid -> (version, object)
        self.events: dict[str, list[tuple[str, str]]] = {}  # uid -> (reason, message)
        self._threads = [
            threading.Thread(target=self._follow, args=(kind,), daemon=True) for kind in ("services", "events")
        ]
        for thread in self._threads:
            thread.start()

    def _follow(self, kind: str) -> None:
        version = str(self._server.get(f"/api/v1/{kind}?limit=1")["metadata"]["resourceVersion"])
        context = ssl.create_default_context(cafile=str(self._server.folder / "ca.crt"))
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        while not self._stop:
            query = f"watch=1&resourceVersion={version}&timeoutSeconds=2&allowWatchBookmarks=true"
            url = f"{self._server.url}/api/v1/{kind}?{query}"
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {ADMIN}"})
            with (
                contextlib.suppress(TimeoutError),
                urllib.request.urlopen(request, timeout=60, context=context) as lines,
            ):
                for line in lines:
                    event = json.loads(line)
                    assert event["type"] != "ERROR", event
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._keep(kind, event)

    def _keep(self, kind: str, event: dict[str, Any]) -> None:
        obj = event["object"]
        if kind == "services":
            seen = self.versions.setdefault(obj["metadata"]["uid"], [])
            seen.append((int(obj["metadata"]["resourceVersion"]), None if event["type"] == "DELETED" else obj))
        elif event["type"] != "DELETED":
            told = self.events.setdefault(obj["involvedObject"].get("uid", ""), [])
            told.append((obj["reason"], obj["message"]))

    def close(self) -> None:
        time.sleep(0.5)
        self._stop = True
        for thread in self._threads:
            thread.join(30)

    def untold(self) -> list[str]:
        """Changes of an address without an event: given, moved or taken from a Service that is still one."""
        out = []
        for uid, seen in list(self.versions.items()):
            before: tuple[str, ...] = ()
            for _, obj in list(seen):
                if obj is None:
                    break
                ingress = (obj["status"].get("loadBalancer") or {}).get("ingress") or ()
                now = tuple(e["ip"] for e in ingress)
                told = self.events.get(uid, [])
                if now != before and now:
                    text = "Assigned IP [" + " ".join(f'"{ip}"' for ip in now) + "]"
                    if ("IPAllocated", text) not in told:
                        out.append(f"{obj['metadata']['name']}: {before} -> {now}")
                elif (
                    now != before
                    and obj["spec"]["type"] == "LoadBalancer"
                    and not any(r == "ClearAssignment" for r, _ in told)
                ):
                    out.append(f"{obj['metadata']['name']}: {before} -> ()")
                before = now
        return out

    def shown_twice(self) -> list[str]:
        """Addresses that two Services had at one moment without sharing it: the server's history, step by step."""
        out: list[str] = []
        steps = sorted(
            ((version, uid, obj) for uid, seen in self.versions.items() for version, obj in seen),
            key=lambda step: step[0],
        )
        now: dict[str, dict[str, Any]] = {}
        for version, uid, obj in steps:
            before = addresses_of(now.pop(uid, None))
            if obj is None:
                continue
            for ip in addresses_of(obj) - before:
                others = [o for o in now.values() if ip in addresses_of(o) and not sharers(obj, o)]
                out += [f"{version}: {ip} on {obj['metadata']['name']} and {o['metadata']['name']}" for o in others]
            now[uid] = obj
        return out


def addresses_of(obj: dict[str, Any] | None) -> set[str]:
    ingress = ((obj or {}).get("status", {}).get("loadBalancer") or {}).get("ingress") or ()
    return {entry["ip"] for entry in ingress}


def sharers(*both: dict[str, Any]) -> bool:
    keys = {obj["metadata"].get("annotations", {}).get("metallb.io/allow-shared-ip") for obj in both}
    ports = [port["port"] for obj in both for port in obj["spec"]["ports"]]
    return len(keys) == 1 and None not in keys and len(ports) == len(set(ports))


class Churn(threading.Thread):
    """Creates, annotates, re-pools, retypes and deletes Services until told to stop."""

    def __init__(self, here: Lab, seed: int, services: int) -> None:
        super().__init__(daemon=True)
        self._here, self._random, self._services = here, Random(seed), services
        self._names: list[str] = []
        self._next = 0
        self.done = False
        self.steps = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.done:
                with contextlib.suppress(Conflict):
                    self._step()
                self.steps += 1
        except BaseException as error:
            self.failure = error

    def _step(self) -> None:
        random, base = self._random, "/api/v1/namespaces/default/services"
        act = random.random()
        if len(self._names) < self._services * 0.8 or (act < 0.3 and len(self._names) < self._services):
            name = f"s{self._next}"
            self._next += 1
            annotations = random.choice(
                [{}, {}, {"metallb.universe.tf/address-pool": "c"}, {"metallb.io/allow-shared-ip": "k"}]
            )
            port = random.choice([80, 443, 8080])
            self._here.create(
                name, annotations=annotations, ports=[{"port": port}], allocateLoadBalancerNodePorts=False
            )
            self._names.append(name)
            return
        name = random.choice(self._names)
        if act < 0.55:
            self._names.remove(name)
            self._here.server.delete(f"{base}/{name}")
        elif act < 0.75:
            wanted = random.choice(["a", "b", "c", None])
            self._here.server.merge(
                f"{base}/{name}", {"metadata": {"annotations": {"metallb.universe.tf/address-pool": wanted}}}
            )
        elif act < 0.9:
            self._here.server.merge(f"{base}/{name}", {"metadata": {"labels": {"n": str(random.random())}}})
        else:
            kind = random.choice(["ClusterIP", "LoadBalancer"])
            self._here.server.merge(f"{base}/{name}", {"spec": {"type": kind}})


def judge(here: Lab, process: Process, watcher: Watcher) -> None:
    """After the storm: everything is as it should be."""

    def settled() -> bool:
        """Everybody has an address, and nothing is left to write."""
        state = process.status()
        return bool(here.all_have_addresses() and state.get("services") and not state["services"]["writes_pending"])

    wait(settled, 120, 0.3)
    with contextlib.suppress(AssertionError):  # events come later than what they tell of; it is judged below
        wait(lambda: not watcher.untold(), 60, 0.3)
    watcher.close()
    owners: dict[str, list[dict[str, Any]]] = {}
    for item in here.services().values():
        for entry in (item["status"].get("loadBalancer") or {}).get("ingress") or ():
            owners.setdefault(entry["ip"], []).append(item)
            (home,) = [n for n, net in NETWORKS.items() if ipaddress.ip_address(entry["ip"]) in net]
            assert item["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"] == home
            assert home != "a" or entry["ip"].rpartition(".")[2] not in ("0", "255")
            wish = item["metadata"]["annotations"].get("metallb.universe.tf/address-pool")
            assert wish in (None, home)
    for ip, items in owners.items():
        keys = {i["metadata"]["annotations"].get("metallb.io/allow-shared-ip") for i in items}
        assert len(items) == 1 or (len(keys) == 1 and None not in keys), f"{ip} has {len(items)} owners"
        ports = [p["port"] for i in items for p in i["spec"]["ports"]]
        assert len(ports) == len(set(ports)), f"{ip} is shared on one port"
    page = process.page("/metrics")
    for name, net in NETWORKS.items():  # no leak: what is counted is what is there
        used = sum(ipaddress.ip_address(ip) in net for ip in owners)
        assert f'metallb_allocator_addresses_in_use_total{{pool="{name}"}} {used}\n' in page
    assert watcher.untold() == []
    assert watcher.shown_twice() == []


def storm(here: Lab, start: Start, seed: int, kills: int, services: int) -> None:
    here.configure(CONFIG)
    watcher = Watcher(here.server)
    churn = Churn(here, seed, services)
    churn.start()
    random = Random(seed)
    process = start()
    for _ in range(kills):
        time.sleep(random.uniform(0.2, 2.0))
        process.kill()
        process = start()
    wait(lambda: churn.failure or churn.steps > 20 * kills, 120)
    churn.done = True
    churn.join(60)
    assert churn.failure is None, churn.failure
    judge(here, process, watcher)


def test_killed_during_churn(here: Lab, start: Start) -> None:
    storm(here, start, 1, 5, 50)


def fight(here: Lab, start: Start, seed: int, rounds: int, services: int) -> None:
    """Two controllers and one Lease: one of them is killed, stopped or frozen again and again."""
    import signal

    here.configure(CONFIG)
    watcher = Watcher(here.server)
    churn = Churn(here, seed, services)
    churn.start()
    random = Random(seed)
    pair = [start(), start()]
    for _ in range(rounds):
        time.sleep(random.uniform(0.5, 2.5))
        victim = next((p for p in pair if p.leading()), pair[0])
        how = random.choice(["kill", "freeze", "stop"])
        if how == "freeze":
            victim.process.send_signal(signal.SIGSTOP)
            time.sleep(random.uniform(0.5, 4.0))
            victim.process.send_signal(signal.SIGCONT)
            continue
        victim.kill() if how == "kill" else victim.stop()
        pair[pair.index(victim)] = start()
    churn.done = True
    churn.join(60)
    assert churn.failure is None, churn.failure
    leader = wait(lambda: next((p for p in pair if p.leading()), None))
    judge(here, leader, watcher)


@only(OUR_RIGHTS, "the original grants no Leases: there is nothing to fight for, and one controller at a time")
def test_two_controllers_fight_for_the_lease(here: Lab, start: Start) -> None:
    fight(here, start, 3, 4, 40)


def test_services_that_take_each_others_addresses(here: Lab, start: Start) -> None:
    """Again and again, two want what the other has, faster than it can be written; killed in the middle of it."""
    here.configure("address-pools:\n- {name: p, protocol: layer2, addresses: [10.9.0.0/29]}\n")
    watcher = Watcher(here.server)
    process = start()
    for name in "abcd":
        here.create(name, allocateLoadBalancerNodePorts=False)
    wait(here.all_have_addresses)
    random, exchanges, deadline = Random(7), 0, time.monotonic() + 240
    pool = ThreadPoolExecutor(3)

    def ask(name: str, ip: str) -> None:
        path = f"/api/v1/namespaces/default/services/{name}"
        here.server.merge(path, {"metadata": {"annotations": {"metallb.universe.tf/loadBalancerIPs": ip}}})

    def settled() -> bool:
        """Nothing is left to write, and everybody has an address."""
        state = process.status().get("services")
        return bool(state and not state["writes_pending"] and here.all_have_addresses())

    for i in range(1000):
        one, two = random.sample("abcd", 2)
        (a,), (b,) = here.ip(one), here.ip(two)
        free = random.choice(sorted({f"10.9.0.{n}" for n in range(8)} - {ip for (ip,) in here.addresses().values()}))
        # Not one after the other: a status is written in the time that an answer takes.
        asked = []
        for name, ip in ((one, free), (two, a), (one, b)):
            asked.append(pool.submit(ask, name, ip))
            time.sleep(random.uniform(0, 0.004))
        for request in asked:
            request.result()
        if i % 3 == 2:  # before the most that one Service may move, nine times, exceed its budget of events
            exchanges += sum(line.get("reason") == "exchange" for line in process.lines())
            process.kill()
            process = start()
        wait(settled)
        if (i >= 24 and exchanges) or time.monotonic() > deadline:
            break
    pool.shutdown()
    with contextlib.suppress(AssertionError):
        wait(lambda: not watcher.untold(), 60, 0.3)
    watcher.close()
    assert watcher.shown_twice() == []
    assert watcher.untold() == []
    assert exchanges, "never did two change addresses: nothing was proven"


@pytest.mark.accept
def test_fifty_kills_among_five_hundred_services(here: Lab, start: Start) -> None:
    storm(here, start, 4, 50, 500)


@only(OUR_RIGHTS, "the original grants no Leases: there is nothing to fight for, and one controller at a time")
@pytest.mark.accept
def test_a_long_fight(here: Lab, start: Start) -> None:
    fight(here, start, 6, 25, 300)
