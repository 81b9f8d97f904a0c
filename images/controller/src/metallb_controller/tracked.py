"""A Service as the controller keeps it: the view to decide on, and what a status write must repeat.

A PUT on services/status replaces labels, annotations, finalizers and owner references with what it
carries, so it must carry them. They are kept as compact JSON: as Python objects they would weigh
several times as much, for a use that comes once in a Service's life.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from metallb_common.kube.views import Service
from metallb_common.net.ranges import Address
from metallb_controller.plan import Plan, Say, status_addresses
from metallb_controller.wishes import FROM_POOL

#: Metadata that the API server takes from a status write.
KEPT = ("labels", "annotations", "finalizers", "ownerReferences", "generateName")


class Tracked:
    """One Service. `decided` is the last plan, `said` and `lost` are the problems and lost addresses that were told.

    `lapsed` are the addresses that it had from us and has no right to any more, until that is written.

    Until a newer version was seen the server may show more than `view` does: `flying` is what the write
    under way adds, `unknown` what writes have added of which nobody knows whether they happened.
    """

    __slots__ = ("announced", "decided", "flying", "kept", "lapsed", "lost", "said", "unknown", "view")

    def __init__(self, view: Service, kept: bytes) -> None:
        self.view = view
        self.kept = kept
        self.decided: Plan | None = None
        self.said: tuple[Say, ...] = ()
        self.announced: tuple[Say, ...] = ()
        self.lost: tuple[Address, ...] = ()
        self.lapsed: tuple[Address, ...] = ()
        self.flying: tuple[Address, ...] = ()
        self.unknown: tuple[Address, ...] = ()

    def succeed(self, known: Tracked) -> None:
        """Take over what is remembered of this Service; `self` is as new as `known`, or newer."""
        self.decided, self.said, self.announced, self.lost = known.decided, known.said, known.announced, known.lost
        self.lapsed = known.lapsed
        if self.view.resource_version == known.view.resource_version:
            # A write carries the version that it was made for: once there is another, it happened or never will.
            self.flying, self.unknown = known.flying, known.unknown

    def done(self) -> None:
        """What was decided is in the object now: the same change, if it is made again, is a new one."""
        self.decided, self.announced, self.lapsed = None, (), ()

    def on_server(self) -> tuple[Address, ...]:
        """Every address that the server may show on this Service."""
        return (*status_addresses(self.view), *self.flying, *self.unknown)

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Tracked:
        view = Service.from_json(obj)
        status = obj.get("status") or {}
        if view.type != "LoadBalancer" and not view.ingress_ips and FROM_POOL not in view.annotations:
            return cls(view, b"")
        meta = {k: obj["metadata"][k] for k in KEPT if obj["metadata"].get(k)}
        return cls(view, json.dumps([meta, status], separators=(",", ":")).encode())

    def body(self, decided: Plan) -> dict[str, Any]:
        """The object to PUT on services/status: the decision, and everything else as it was."""
        meta, status = json.loads(self.kept) if self.kept else ({}, {})
        view = self.view
        meta |= {
            "name": view.name,
            "namespace": view.namespace,
            "uid": view.uid,
            "resourceVersion": view.resource_version,
        }
        annotations = dict(meta.get("annotations") or {})
        annotations.pop(FROM_POOL, None)
        if decided.from_pool:
            annotations[FROM_POOL] = decided.from_pool
        meta["annotations"] = annotations
        # What the server or others said about an address (ipMode, ports) stays with it.
        known = {i.get("ip"): i for i in (status.get("loadBalancer") or {}).get("ingress") or ()}
        ingress = [known.get(ip) or {"ip": ip} for ip in decided.ingress or ()]
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            # Only read for defaulting the status: the server keeps its own spec.
            "spec": {"type": view.type},
            "status": {**status, "loadBalancer": {"ingress": ingress} if ingress else {}},
        }


def newer(mine: str, other: str) -> bool:
    """Whether resource version `other` is as new as `mine`; unreadable ones count as new."""
    return not (mine.isdigit() and other.isdigit()) or int(other) >= int(mine)
