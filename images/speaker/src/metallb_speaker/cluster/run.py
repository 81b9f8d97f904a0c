"""The cluster half's process: puts watches, decisions and the stream together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine
from typing import Any

from metallb_common import app
from metallb_common.config.parse import from_config_map
from metallb_common.kube.client import Api, Backoff, connect
from metallb_common.kube.errors import ApiError
from metallb_common.kube.events import EventRecorder, ObjectRef
from metallb_common.kube.listwatch import ListWatch
from metallb_common.kube.resources import CONFIG_MAPS, ENDPOINT_SLICES, ENDPOINTS, NODES, SERVICES
from metallb_common.kube.views import Json, Node
from metallb_common.obs import logs, metrics
from metallb_speaker import stream
from metallb_speaker.cluster.engine import Engine
from metallb_speaker.cluster.follow import ConfigFollower
from metallb_speaker.cluster.leases import LeaseFollower
from metallb_speaker.cluster.link import Link
from metallb_speaker.cluster.memberkey import share
from metallb_speaker.cluster.pods import PodFollower
from metallb_speaker.cluster.secrets import PasswordReader
from metallb_speaker.cluster.view import (
    Changes,
    ClusterView,
    NodeSink,
    PodSink,
    ServiceSink,
    SliceSink,
    read_endpoints,
    read_service,
    read_slice,
)
from metallb_speaker.cluster.watchdog import Watchdog
from metallb_speaker.desired import KINDS

COMPONENT = "metallb-speaker"
#: Seconds between two looks at whether every list is here, at the start.
SYNC_LOOK = 0.05
#: Seconds between two looks at nodes that have just come back.
STEADY_LOOK = 1.0


def _whole(obj: Json) -> Json:
    return obj


class Cluster:
    """Everything of one run; `tasks()` are to be run together."""

    def __init__(self, api: Api, options: app.Options, where: str | socket.socket) -> None:
        node, namespace = options.text("node-name"), app.namespace(options.text("namespace"))
        self._view = ClusterView(node, ignore_exclude_label=options.truth("ignore-exclude-lb"))
        self._changes = Changes(self._changed)
        self._writer = stream.DesiredWriter()
        self._writer.kinds = ("Member",)
        self._engine = Engine(self._view, self._changes, self._writer)
        self._events = EventRecorder(api, COMPONENT, node)
        self._link = Link(where, self._writer, self._settle, self._state, self._report)
        accepted = options.text("accepted-config")
        self._config = ConfigFollower(self._view, self._changes, from_config_map, accepted=bool(accepted))
        self._passwords = PasswordReader(api, namespace, self._view, self._changes)
        self._pods = PodFollower(api, namespace, options.text("ml-labels"), PodSink(self._view, self._changes))
        self._leases = LeaseFollower(api, self._view, self._changes)
        slices = SliceSink(self._view, self._changes)
        self._slices = ListWatch(api, ENDPOINT_SLICES, read_slice, slices, on_denied=self._no_slices)
        self._endpoints = ListWatch(api, ENDPOINTS, read_endpoints, slices)
        self._need_endpoints = asyncio.Event()
        self._watches: dict[str, ListWatch[Any]] = {
            "services": ListWatch(api, SERVICES, read_service, ServiceSink(self._view, self._changes)),
            "nodes": ListWatch(api, NODES, Node.from_json, NodeSink(self._view, self._changes)),
            "configuration": ListWatch(
                api,
                CONFIG_MAPS,
                _whole,
                self._config,
                namespace=namespace,
                field_selector=f"metadata.name={accepted or options.text('config')}",
            ),
        }
        if accepted:
            self._watches["own configuration"] = ListWatch(
                api,
                CONFIG_MAPS,
                _whole,
                self._config.own,
                namespace=namespace,
                field_selector=f"metadata.name={options.text('config')}",
            )
        secret, folder = options.text("ml-secret-name"), os.path.dirname(options.text("socket"))
        # Without a name there is nothing to hand over; as a child, the announcer has the key from its own environment.
        self._share = share(api, namespace, secret, folder) if secret and isinstance(where, str) else None
        self._updates = 0
        self._synced = False

    def tasks(self) -> dict[str, Coroutine[Any, Any, Any]]:
        """By name, in the order of starting; they end in reverse."""
        return {
            "events": self._run_events(),
            "link": self._link.run(),
            **{name: watch.run() for name, watch in self._watches.items()},
            "slices": self._run_slices(),
            "pods": self._pods.run(),
            "passwords": self._passwords.run(),
            "syncing": self._wait_for_lists(),
            "watchdog": Watchdog().run(),
            "leases": self._leases.run(),
            "steadiness": self._run_steadiness(),
            **({"key": self._share} if self._share is not None else {}),
        }

    async def _run_steadiness(self) -> None:
        """Look whether the time of a node that has just come back is over, or that for an accepted configuration."""
        while True:
            await asyncio.sleep(STEADY_LOOK)
            if self._view.steady.expire():
                self._changes.all()
            elif self._config.due():
                self._changed()

    async def _wait_for_lists(self) -> None:
        """Tell the link at once when the last list is here, also if nothing is in it."""
        while not self._lists_synced():  # noqa: ASYNC110 (one of two kinds of endpoints will do)
            await asyncio.sleep(SYNC_LOOK)
        self._link.wake()
        await asyncio.Event().wait()

    async def _run_events(self) -> None:
        try:
            await self._events.run()
        finally:
            await self._events.close()

    def _no_slices(self, error: ApiError) -> None:
        if not self._slices.synced.is_set():
            self._need_endpoints.set()

    async def _run_slices(self) -> None:
        """EndpointSlices; where they are not to be had, core Endpoints."""
        watch = asyncio.create_task(self._slices.run())
        need = asyncio.create_task(self._need_endpoints.wait())
        try:
            await asyncio.wait([watch, need], return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                await watch
        finally:
            watch.cancel()
            need.cancel()
        logs.warn(op="watch", msg="no EndpointSlices: using Endpoints, which do not tell of terminating endpoints")
        await self._endpoints.run()

    def _changed(self) -> None:
        self._updates += 1
        self._link.wake()

    def _lists_synced(self) -> bool:
        return (
            all(watch.synced.is_set() for watch in self._watches.values())
            and (self._slices.synced.is_set() or self._endpoints.synced.is_set())
            and self._pods.synced.is_set()
        )

    def _settle(self) -> bool:
        """Bring the writer up to date; False while nothing may be sent."""
        if not self._synced:
            if not self._lists_synced():
                return False
            self._synced = True
            logs.info(event="stateSynced", msg="all lists are here", services=len(self._view.services))
            self._changes.all()
        self._config.retry()
        loaded = self._view.config
        self._passwords.follow(loaded)
        if self._engine.settle() and loaded is not None:
            # From the first configuration on a snapshot speaks of everything; of peers when their passwords are known:
            # the announcer keeps the sessions that it has until then.
            kinds = _BUT_PEERS if self._engine.unread else None
            before, self._writer.kinds = self._writer.kinds, kinds
            if before is not None and before != kinds:
                self._writer.again()
        return True

    def _state(self) -> stream.State:
        problems = [self._config.problem, *self._engine.problems]
        numbers: tuple[stream.Numbers, ...] = tuple(
            (name, help, kind, (), (((), float(value)),))
            for (name, help), kind, value in (
                (metrics.UPDATES, "counter", self._updates),
                (metrics.UPDATE_ERRORS, "counter", self._config.refusals),
                (metrics.CONFIG_LOADED, "gauge", self._config.loaded),
                (metrics.CONFIG_STALE, "gauge", self._config.stale),
                (_MEMORY, "gauge", _resident()),
            )
        )
        return stream.State(self._synced, tuple(p for p in problems if p), numbers)

    def _report(self, report: stream.Report) -> None:
        match report:
            case stream.Announced(service=key):
                self._event(key, "Normal", "nodeAssigned", f'announcing from node "{self._view.node}"')
            case stream.Warned(kind="Service", name=key, reason=reason, message=message):
                self._event(key, "Warning", reason, message)
            case stream.Warned(name=name, reason=reason, message=message):
                # As the kubelet does: a Node's events carry its name as uid.
                self._events.emit(ObjectRef("Node", name, uid=name), "Warning", reason, message)
            case stream.MembersSeen(working=working, alive=alive):
                self._leases.need(not working)
                logs.debug(op="members", working=working, alive=alive)

    def _event(self, key: str, kind: str, reason: str, message: str) -> None:
        service = self._view.services.get(key)
        if service is not None:
            ref = ObjectRef("Service", service.name, service.namespace, service.uid)
            self._events.emit(ref, kind, reason, message)


_BUT_PEERS = tuple(name for name in KINDS if name != "BgpPeer")
_MEMORY = ("metallb_speaker_cluster_resident_memory_bytes", "Resident memory size of the speaker's cluster half.")


def _resident() -> int:
    with contextlib.suppress(OSError), open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


async def main(options: app.Options, stop: app.Stop, where: str | socket.socket) -> int:
    """Run until stopped, or (over an inherited socket) until the announcer is gone."""
    backoff, said, api = Backoff(0.5, 10.0), "", None
    while api is None:
        try:
            api = await connect(options.text("kubeconfig"))
        except ApiError as failure:
            if str(failure) != said:
                logs.error(op="startup", msg="no access to the API server", error=str(failure))
                said = str(failure)
            if stop.asked:
                return 0
            await asyncio.sleep(backoff.next())
    app.tune_gc()
    try:
        return await app.until_stopped(stop, Cluster(api, options, where).tasks())
    finally:
        await api.close()
