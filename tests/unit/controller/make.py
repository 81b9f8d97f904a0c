"""Services, pools and a world for the pure half of the controller, in a line each."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

from metallb_common.config.model import Config, Pool, ServiceAllocation
from metallb_common.kube.views import Service, ServicePort
from metallb_common.net.ranges import AddressRange, from_network, merge
from metallb_controller.assigner import Assigner
from metallb_controller.plan import Plan, Say, needs_write
from metallb_controller.tracked import Tracked
from metallb_controller.wishes import FROM_POOL, Rules


def ranges(*texts: str) -> tuple[AddressRange, ...]:
    out = []
    for text in texts:
        first, dash, last = text.partition("-")
        if dash:
            a, b = ipaddress.ip_address(first), ipaddress.ip_address(last)
            out.append(AddressRange(4 if a.version == 4 else 6, int(a), int(b)))
        else:
            out.append(from_network(ipaddress.ip_network(text)))
    return merge(out)


def pool(name: str, *addresses: str, exclude: tuple[str, ...] = (), priority: int = 0, **more: Any) -> Pool:
    allocation = more.pop("allocation", ServiceAllocation(priority=priority))
    return Pool(
        name,
        more.pop("protocol", "layer2"),
        ranges(*addresses),
        exclude_addresses=ranges(*exclude),
        service_allocation=allocation,
        **more,
    )


def config(*pools: Pool) -> Config:
    return Config(pools=pools)


def service(
    name: str = "web",
    *,
    namespace: str = "default",
    families: str = "4",
    policy: str = "SingleStack",
    ports: tuple[str, ...] = ("TCP/80",),
    share: str = "",
    pool: str = "",
    addresses: str = "",
    status: tuple[str, ...] = (),
    created: int = 0,
    version: int = 1,
    **more: Any,
) -> Service:
    cluster = {
        "4": ("10.96.0.10",),
        "6": ("fd00::10",),
        "46": ("10.96.0.10", "fd00::10"),
        "64": ("fd00::10", "10.96.0.10"),
    }
    annotations = dict(more.pop("annotations", {}))
    for key, value in (("address-pool", pool), ("allow-shared-ip", share), ("loadBalancerIPs", addresses)):
        if value:
            annotations["metallb.universe.tf/" + key] = value
    parsed = tuple(ServicePort(p.split("/")[0], int(p.split("/")[1])) for p in ports)
    fields: dict[str, Any] = {
        "namespace": namespace,
        "name": name,
        "uid": f"uid-{namespace}-{name}-{created}",
        "resource_version": str(version),
        "type": "LoadBalancer",
        "cluster_ips": cluster.get(families, ()),
        "ip_families": tuple("IPv" + f for f in families),
        "ip_family_policy": policy,
        "ports": parsed,
        "selector": (("app", name),),
        "labels": {},
        "annotations": annotations,
        "load_balancer_ip": "",
        "load_balancer_class": None,
        "external_traffic_policy": "Cluster",
        "ingress_ips": status,
        "created": f"2026-01-01T{created // 3600:02}:{created // 60 % 60:02}:{created % 60:02}Z",
        "deleting": False,
    }
    return Service(**(fields | more))


class World:
    """The API server as far as the assigner sees it: versions, status writes, events."""

    def __init__(self, *, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.objects: dict[str, Service] = {}
        self.events: list[tuple[str, Say]] = []
        self.version = 1
        self.writes: list[str] = []
        self.config: Config | None = None
        self.assigner = Assigner(self.rules, self)
        self.todo: dict[str, None] = {}

    # what the assigner asks for

    def submit(self, key: str) -> None:
        self.todo[key] = None

    def tell(self, view: Service, say: Say) -> None:
        self.events.append((view.key, say))

    def freed(self) -> None: ...
    def stirred(self) -> None: ...
    def accepted(self, config: Config) -> None: ...

    def counted(self, *, error: bool = False) -> None:
        assert not error, "a plan failed"

    # what the world does

    def put(self, view: Service) -> None:
        """Create or replace an object, and let the watch say so."""
        self.version += 1
        self.objects[view.key] = dataclasses.replace(view, resource_version=str(self.version))
        self.assigner.upsert(Tracked(self.objects[view.key], b"[{},{}]"))

    def edit(self, key: str, **changes: Any) -> None:
        self.put(dataclasses.replace(self.objects[key], **changes))

    def remove(self, key: str) -> None:
        view = self.objects.pop(key)
        self.assigner.delete(Tracked(view, b""))

    def configure(self, *pools: Pool) -> None:
        self.config = config(*pools)
        self.assigner.accept(self.config)

    def sync(self) -> None:
        self.assigner.replace([Tracked(view, b"[{},{}]") for view in self.objects.values()])

    def restart(self) -> None:
        """A new process: nothing is remembered but the objects."""
        self.todo.clear()
        self.assigner = Assigner(self.rules, self)
        self.sync()
        if self.config is not None:
            self.assigner.accept(self.config)

    def think(self) -> None:
        """Reconcile until nothing is left to decide."""
        for _ in range(1000):
            if not self.assigner.busy:
                return
            self.assigner.reconcile(100)
        raise AssertionError("there is always something to decide")

    def settle(self) -> None:
        """Reconcile and write until nothing is left to do."""
        for _ in range(1000):
            self.think()
            if not self.todo:
                return
            key = next(iter(self.todo))
            del self.todo[key]
            work = self.assigner.work(key)
            if work is not None:
                self.write(key, work[1])
        raise AssertionError("it does not settle")

    def write(self, key: str, decided: Plan) -> None:
        for say in decided.changes:
            self.events.append((key, say))
        view = self.objects[key]
        annotations = {k: v for k, v in view.annotations.items() if k != FROM_POOL}
        if decided.from_pool:
            annotations[FROM_POOL] = decided.from_pool
        self.version += 1
        self.objects[key] = dataclasses.replace(
            view, ingress_ips=decided.ingress or (), annotations=annotations, resource_version=str(self.version)
        )
        self.writes.append(key)
        assert not needs_write(self.objects[key], decided)
        self.assigner.written(Tracked(self.objects[key], b"[{},{}]"))

    # what tests ask

    def ips(self, name: str, namespace: str = "default") -> tuple[str, ...]:
        return self.objects[f"{namespace}/{name}"].ingress_ips

    def said(self, name: str, namespace: str = "default") -> list[str]:
        return [f"{s.reason}: {s.message}" for k, s in self.events if k == f"{namespace}/{name}"]


def world(*pools: Pool, rules: Rules | None = None) -> World:
    made = World(rules=rules)
    made.sync()
    if pools:
        made.configure(*pools)
    return made
