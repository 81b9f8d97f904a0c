"""Frozen views of the Kubernetes objects that decisions read: only the fields used.

`from_json` takes the API's wire form (a dict as json.loads gives it) and never raises on a missing
optional field: the API server has validated the object already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]

#: The annotation prefixes that mean the same; the first wins only when equal (contract section 9).
PREFIXES = ("metallb.universe.tf/", "metallb.io/")


@dataclass(frozen=True, slots=True, order=True)
class ServicePort:
    protocol: str  # TCP, UDP or SCTP
    port: int

    def __str__(self) -> str:
        return f"{self.protocol}/{self.port}"


#: Lists of ports that Services have, each once.
_ports: dict[tuple[ServicePort, ...], tuple[ServicePort, ...]] = {}


def _ports_from_json(raw: Iterable[Json]) -> tuple[ServicePort, ...]:
    if len(_ports) > 10_000:  # many odd lists: forget them rather than keep them for ever
        _ports.clear()
    ports = tuple(ServicePort(sys.intern(p.get("protocol", "TCP")), p["port"]) for p in raw)
    return _ports.setdefault(ports, ports)


@dataclass(frozen=True, slots=True)
class Service:
    """A Service of any type. What thousands of Services have in common is stored once."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    type: str
    cluster_ips: tuple[str, ...]  # as in spec.clusterIPs, else spec.clusterIP; "None" when headless
    ip_families: tuple[str, ...]  # "IPv4", "IPv6"
    ip_family_policy: str
    ports: tuple[ServicePort, ...]
    selector: tuple[tuple[str, str], ...]  # sorted
    labels: Mapping[str, str]
    annotations: Mapping[str, str]  # only those with one of PREFIXES
    load_balancer_ip: str
    load_balancer_class: str | None
    external_traffic_policy: str  # "Cluster" or "Local"
    ingress_ips: tuple[str, ...]  # status.loadBalancer.ingress[].ip
    created: str  # metadata.creationTimestamp
    deleting: bool

    @property
    def key(self) -> str:
        """namespace/name, as in logs and metrics."""
        return f"{self.namespace}/{self.name}"

    @classmethod
    def from_json(cls, obj: Json) -> Service:
        meta, spec = obj["metadata"], obj.get("spec") or {}
        ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
        cluster_ips = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
        annotations = meta.get("annotations") or {}
        share = sys.intern
        return cls(
            namespace=share(meta["namespace"]),
            name=meta["name"],
            uid=meta.get("uid", ""),
            resource_version=meta.get("resourceVersion", ""),
            type=share(spec.get("type", "ClusterIP")),
            cluster_ips=tuple(cluster_ips),
            ip_families=tuple(map(share, spec.get("ipFamilies") or ())),
            ip_family_policy=share(spec.get("ipFamilyPolicy") or "SingleStack"),
            ports=_ports_from_json(spec.get("ports") or ()),
            selector=tuple(sorted((spec.get("selector") or {}).items())),
            labels=dict(meta.get("labels") or {}),
            annotations={k: v for k, v in annotations.items() if k.startswith(PREFIXES)},
            load_balancer_ip=spec.get("loadBalancerIP") or "",
            load_balancer_class=spec.get("loadBalancerClass"),
            external_traffic_policy=share(spec.get("externalTrafficPolicy") or "Cluster"),
            ingress_ips=tuple(i["ip"] for i in ingress if i.get("ip")),
            created=share(meta.get("creationTimestamp") or ""),
            deleting="deletionTimestamp" in meta,
        )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint of a Service. Conditions as in discovery.k8s.io/v1 (absent ready means true)."""

    node: str
    ready: bool
    serving: bool
    terminating: bool


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """One EndpointSlice (discovery.k8s.io/v1), or a core Endpoints object in the same form."""

    namespace: str
    name: str
    service: str  # name of the Service it belongs to
    family: str  # "IPv4", "IPv6" or "FQDN"
    endpoints: tuple[Endpoint, ...]

    @classmethod
    def from_json(cls, obj: Json) -> EndpointSlice:
        meta = obj["metadata"]
        endpoints = []
        for e in obj.get("endpoints") or ():
            conditions = e.get("conditions") or {}
            ready = conditions.get("ready")
            ready = True if ready is None else bool(ready)
            serving = conditions.get("serving")
            endpoints.append(
                Endpoint(
                    node=e.get("nodeName") or "",
                    ready=ready,
                    serving=ready if serving is None else bool(serving),
                    terminating=bool(conditions.get("terminating")),
                )
            )
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            service=(meta.get("labels") or {}).get("kubernetes.io/service-name", ""),
            family=obj.get("addressType", "IPv4"),
            endpoints=tuple(endpoints),
        )


@dataclass(frozen=True, slots=True)
class Node:
    """A node, as far as announcing needs it."""

    name: str
    labels: Mapping[str, str]
    ready: bool
    network_unavailable: bool
    unschedulable: bool  # cordoned
    internal_ips: tuple[str, ...]

    @classmethod
    def from_json(cls, obj: Json) -> Node:
        meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
        conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
        return cls(
            name=meta["name"],
            labels=dict(meta.get("labels") or {}),
            ready=conditions.get("Ready") == "True",
            network_unavailable=conditions.get("NetworkUnavailable") == "True",
            unschedulable=bool(spec.get("unschedulable")),
            internal_ips=tuple(a["address"] for a in status.get("addresses") or () if a["type"] == "InternalIP"),
        )
