"""What the cluster half knows of the cluster: kept current by watches, read by decisions.

Only what decisions need is kept: of an EndpointSlice the names of nodes, of a Service that is no load
balancer nothing. Names of nodes are shared objects, so that ten thousand slices cost little.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from metallb_common.config.model import Config
from metallb_common.kube.views import EndpointSlice, Json, Node, Service
from metallb_speaker.cluster.steady import Steadiness


@dataclass(frozen=True, slots=True)
class NotServed:
    """A Service that is no load balancer: only its key matters, for taking it out."""

    key: str


def read_service(obj: Json) -> Service | NotServed:
    """The view of a Service; a cheap stand-in when it is of another type."""
    if (obj.get("spec") or {}).get("type") == "LoadBalancer":
        return Service.from_json(obj)
    meta = obj["metadata"]
    return NotServed(f"{meta['namespace']}/{meta['name']}")


@dataclass(frozen=True, slots=True)
class SliceNodes:
    """Nodes with endpoints of a Service, of one slice. An endpoint without a node counts as on ""."""

    service: str  # namespace/name
    name: str
    ready: frozenset[str]
    draining: frozenset[str]  # serving, but terminating: used while nothing is ready (KEP-1669)


_sets: dict[frozenset[str], frozenset[str]] = {}


def _shared(names: Iterable[str]) -> frozenset[str]:
    """One object per distinct set: most slices of a cluster name the same few nodes."""
    made = frozenset(map(sys.intern, names))
    if len(_sets) > 10_000:
        _sets.clear()
    return _sets.setdefault(made, made)


def read_slice(obj: Json) -> SliceNodes:
    """Of an EndpointSlice (discovery.k8s.io/v1)."""
    view = EndpointSlice.from_json(obj)
    return SliceNodes(
        f"{view.namespace}/{view.service}",
        view.name,
        _shared(e.node for e in view.endpoints if e.ready),
        _shared(e.node for e in view.endpoints if not e.ready and e.serving and e.terminating),
    )


def read_endpoints(obj: Json) -> SliceNodes:
    """Of a core Endpoints object: `addresses` are ready, `notReadyAddresses` are not used."""
    meta = obj["metadata"]
    ready = (a.get("nodeName") or "" for s in obj.get("subsets") or () for a in s.get("addresses") or ())
    return SliceNodes(f"{meta['namespace']}/{meta['name']}", meta["name"], _shared(ready), frozenset())


@dataclass(frozen=True, slots=True)
class SpeakerPod:
    """A speaker's pod: a member, and a seed of the membership.

    `ready` holds, too, for one that was Ready since its announcer started and is not any more: its other half
    may hang, while it goes on announcing. Only a process that has ended has certainly let go.
    """

    namespace: str
    name: str
    node: str
    addresses: tuple[str, ...]
    ready: bool
    deleting: bool


def read_pod(obj: Json) -> SpeakerPod:
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    addresses = [entry.get("ip") for entry in status.get("podIPs") or ()] or [status.get("podIP")]
    finished = status.get("phase") in ("Succeeded", "Failed")
    return SpeakerPod(
        meta["namespace"],
        meta["name"],
        "" if finished else spec.get("nodeName") or "",
        tuple(address for address in addresses if address),
        _announces(status),
        "deletionTimestamp" in meta,
    )


def _announces(status: Json) -> bool:
    """Whether the pod's announcer runs, and has been Ready since it began. Times are RFC 3339 in UTC: they sort."""
    found = [c for c in status.get("conditions") or () if c.get("type") == "Ready"]
    condition: Json = found[0] if found else {}
    if condition.get("status") == "True":
        return True
    containers = sorted(status.get("containerStatuses") or (), key=lambda c: c.get("name") != "speaker")
    running = (containers[0].get("state") or {}).get("running") or {} if containers else {}
    started, since = str(running.get("startedAt") or ""), str(condition.get("lastTransitionTime") or "")
    return bool(started) and since > started


@dataclass(frozen=True, slots=True)
class Backends:
    """Where a Service's traffic can end: the union of its slices."""

    ready: frozenset[str] = frozenset()
    draining: frozenset[str] = frozenset()

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes with an endpoint to send to: ready ones, else those that serve while they terminate."""
        return (self.ready or self.draining) - {""}

    @property
    def any(self) -> bool:
        return bool(self.ready or self.draining)


NO_BACKENDS = Backends()


@dataclass(slots=True)
class ClusterView:
    """The whole view. `speakers` is None while pods cannot be listed: then every node counts as having one."""

    node: str  # this node's name
    config: Config | None = None
    services: dict[str, Service] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    speakers: dict[str, SpeakerPod] | None = field(default_factory=dict)  # by node
    passwords: dict[tuple[str, str], str] = field(default_factory=dict)  # (Secret, key) -> value
    answered_secrets: frozenset[str] = frozenset()  # names of which the API server has said what they hold, or not
    ignore_exclude_label: bool = True
    slices: dict[str, dict[str, SliceNodes]] = field(default_factory=dict)  # service -> slice name -> nodes
    steady: Steadiness = field(default_factory=Steadiness)
    stale: frozenset[str] = frozenset()  # nodes that do not renew their Lease, while that is looked at

    def backends(self, service: str) -> Backends:
        slices = self.slices.get(service)
        if not slices:
            return NO_BACKENDS
        if len(slices) == 1:
            (only,) = slices.values()
            return Backends(only.ready, only.draining)
        return Backends(
            frozenset().union(*(s.ready for s in slices.values())),
            frozenset().union(*(s.draining for s in slices.values())),
        )


class Changes:
    """What has to be decided anew. `notify` is called with the first change after each `take`."""

    def __init__(self, notify: Any = None) -> None:
        self.services: set[str] = set()
        self.everything = False
        self.left: dict[str, str] = {}  # Services that left the view, and as what
        self._notify = notify

    def service(self, key: str, left: str = "") -> None:
        self.services.add(key)
        if left:
            self.left[key] = left
        else:
            self.left.pop(key, None)
        self._tell()

    def all(self) -> None:
        self.everything = True
        self._tell()

    def take(self) -> tuple[set[str], bool]:
        """The keys of changed Services, and whether everything has to be looked at."""
        out = self.services, self.everything
        self.services, self.everything = set(), False
        return out

    def _tell(self) -> None:
        if self._notify is not None:
            self._notify()


class ServiceSink:
    """Keeps `ClusterView.services`."""

    def __init__(self, view: ClusterView, changes: Changes) -> None:
        self._view, self._changes = view, changes

    def replace(self, objects: list[Service | NotServed]) -> None:
        found = {o.key: o for o in objects if isinstance(o, Service)}
        for key in self._view.services.keys() - found.keys():
            self._drop(key)
        for service in found.values():
            self.upsert(service)

    def upsert(self, obj: Service | NotServed) -> None:
        if isinstance(obj, NotServed):
            self._drop(obj.key, "notLoadBalancer")
            return
        self._view.services[obj.key] = obj
        self._changes.service(obj.key)

    def delete(self, obj: Service | NotServed) -> None:
        self._drop(obj.key)

    def _drop(self, key: str, left: str = "serviceDeleted") -> None:
        if self._view.services.pop(key, None) is not None:
            self._changes.service(key, left)


class SliceSink:
    """Keeps `ClusterView.slices`, from EndpointSlices or from Endpoints."""

    def __init__(self, view: ClusterView, changes: Changes) -> None:
        self._view, self._changes = view, changes

    def replace(self, objects: list[SliceNodes]) -> None:
        before = self._view.slices
        after: dict[str, dict[str, SliceNodes]] = {}
        for entry in objects:
            after.setdefault(entry.service, {})[entry.name] = entry
        self._view.slices = after
        for key in before.keys() | after.keys():
            if before.get(key) != after.get(key) and key in self._view.services:
                self._changes.service(key)

    def upsert(self, obj: SliceNodes) -> None:
        slices = self._view.slices.setdefault(obj.service, {})
        if slices.get(obj.name) != obj:
            slices[obj.name] = obj
            if obj.service in self._view.services:
                self._changes.service(obj.service)

    def delete(self, obj: SliceNodes) -> None:
        slices = self._view.slices.get(obj.service, {})
        if slices.pop(obj.name, None) is not None:
            if not slices:
                del self._view.slices[obj.service]
            if obj.service in self._view.services:
                self._changes.service(obj.service)


class NodeSink:
    """Keeps `ClusterView.nodes`. A heartbeat that changes nothing is no change."""

    def __init__(self, view: ClusterView, changes: Changes) -> None:
        self._view, self._changes = view, changes

    def replace(self, objects: list[Node]) -> None:
        found = {node.name: node for node in objects}
        if found != self._view.nodes:
            self._view.steady.nodes(self._view.nodes, found)
            self._view.nodes = found
            self._changes.all()

    def upsert(self, obj: Node) -> None:
        if self._view.nodes.get(obj.name) != obj:
            changed = {**self._view.nodes, obj.name: obj}
            self._view.steady.nodes(self._view.nodes, changed)
            self._view.nodes = changed
            self._changes.all()

    def delete(self, obj: Node) -> None:
        if self._view.nodes.pop(obj.name, None) is not None:
            self._changes.all()


class PodSink:
    """Keeps `ClusterView.speakers`: one pod per node, the one that stays when two overlap."""

    def __init__(self, view: ClusterView, changes: Changes) -> None:
        self._view, self._changes = view, changes
        self._pods: dict[tuple[str, str], SpeakerPod] = {}

    def replace(self, objects: list[SpeakerPod]) -> None:
        self._pods = {(pod.namespace, pod.name): pod for pod in objects}
        self._update()

    def upsert(self, obj: SpeakerPod) -> None:
        self._pods[obj.namespace, obj.name] = obj
        self._update()

    def delete(self, obj: SpeakerPod) -> None:
        self._pods.pop((obj.namespace, obj.name), None)
        self._update()

    def unknown(self) -> None:
        """Pods cannot be listed."""
        self._view.speakers = None
        self._changes.all()

    def _update(self) -> None:
        found: dict[str, SpeakerPod] = {}
        for pod in sorted(self._pods.values(), key=lambda p: (not p.deleting, p.ready, p.name)):
            if pod.node:
                found[pod.node] = pod
        if found != self._view.speakers:
            self._view.steady.speakers(self._view.speakers or (), found)
            self._view.speakers = found
            self._changes.all()


def labels_of(text: str) -> Mapping[str, str]:
    """`a=b,c=d` as in METALLB_ML_LABELS."""
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {key.strip(): value.strip() for key, _, value in pairs}
