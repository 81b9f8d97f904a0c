"""The parts, connected: watches feed the assigner, the assigner feeds the writer, the Lease gates both.

Services are watched only while leading. A term begins with a list made after the Lease was taken, so it
sees every write of the previous leader, and nothing is given before every Service was seen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metallb_common.config.model import Config
from metallb_common.kube.client import Api
from metallb_common.kube.events import EventRecorder
from metallb_common.kube.listwatch import ListWatch
from metallb_common.kube.resources import CONFIG_MAPS, NAMESPACES, SERVICES
from metallb_common.kube.views import Service
from metallb_common.obs import logs
from metallb_controller import memberlist
from metallb_controller.accepted import owner_reference
from metallb_controller.apply import WRITE_TIMEOUT, Writer
from metallb_controller.assigner import Assigner, reference
from metallb_controller.configs import Configs, Settings, Source
from metallb_controller.lease import Lease
from metallb_controller.metrics import Metrics
from metallb_controller.plan import Say
from metallb_controller.wishes import Rules

COMPONENT = "metallb-controller"
#: Services planned in one go before timers and sockets get their turn: some 5 ms.
BATCH = 100


@dataclass(frozen=True, slots=True)
class Options:
    settings: Settings
    rules: Rules
    leader_elect: bool
    lease_name: str
    memberlist_secret: str


class _NamespaceSink:
    """Labels of namespaces, for pools that select by them."""

    def __init__(self, assigner: Assigner) -> None:
        self._assigner = assigner
        self._labels: dict[str, Mapping[str, str]] = {}

    def replace(self, objects: list[tuple[str, dict[str, str]]]) -> None:
        self._labels = dict(objects)
        self._assigner.set_namespaces(self._labels)

    def upsert(self, obj: tuple[str, dict[str, str]]) -> None:
        self._labels[obj[0]] = obj[1]
        self._assigner.set_namespaces(self._labels)

    def delete(self, obj: tuple[str, dict[str, str]]) -> None:
        self._labels.pop(obj[0], None)
        self._assigner.set_namespaces(self._labels)


def _namespace(obj: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    meta = obj["metadata"]
    return meta["name"], dict(meta.get("labels") or {})


class Term:
    """One leadership: everything that is known and done in it ends with it."""

    def __init__(
        self, api: Api, recorder: EventRecorder, configs: Configs, lease: Lease, rules: Rules, metrics: Metrics
    ):
        self._api, self._recorder, self._configs, self._metrics = api, recorder, configs, metrics
        self._lease = lease
        self._stir = asyncio.Event()
        self._told_synced = False
        self._selective = asyncio.Event()  # a pool selects namespaces by label
        self.assigner = Assigner(rules, self)
        self.writer = Writer(api, self.assigner, recorder, lease.valid, metrics.update_errors.inc, metrics.writes.inc)
        self.services = ListWatch(api, SERVICES, self.assigner.parse, self.assigner)

    async def run(self) -> None:
        self._configs.lead(self.assigner, self._lease.valid)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.services.run())
                group.create_task(self.writer.run())
                group.create_task(self._reconcile())
                group.create_task(self._follow_namespaces())
                if stored := self._configs.watch_stored():
                    group.create_task(stored.run())
        finally:
            self._configs.follow(self.assigner)

    async def _reconcile(self) -> None:
        while True:
            await self._stir.wait()
            self._stir.clear()
            while self.assigner.busy:
                self.assigner.reconcile(BATCH)
                await asyncio.sleep(0)

    async def _follow_namespaces(self) -> None:
        """Watch namespaces once a pool selects by their labels. The right to do so may be lacking."""
        await self._selective.wait()
        denied = asyncio.Event()
        watch = ListWatch(
            self._api, NAMESPACES, _namespace, _NamespaceSink(self.assigner), on_denied=lambda _: denied.set()
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(watch.run())
            group.create_task(self._resume(denied, watch.synced))

    async def _resume(self, *either: asyncio.Event) -> None:
        """Without the labels only `kubernetes.io/metadata.name` can be selected by."""
        waits = [asyncio.ensure_future(event.wait()) for event in either]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self.assigner.paused = False
        self._stir.set()

    # --- what the assigner needs done ------------------------------------------------------------

    def submit(self, key: str) -> None:
        self.writer.submit(key)

    def tell(self, view: Service, say: Say) -> None:
        self._recorder.emit(reference(view), say.type, say.reason, say.message)

    def freed(self) -> None:
        self._configs.freed()

    def accepted(self, config: Config) -> None:
        selective = any(p.service_allocation.namespace_selectors for p in config.pools)
        if selective and not self._selective.is_set():
            self.assigner.paused = True
            self._selective.set()

    def stirred(self) -> None:
        self._stir.set()
        if self.assigner.synced and not self._told_synced:
            self._told_synced = True
            self._configs.synced()

    def counted(self, *, error: bool = False) -> None:
        (self._metrics.update_errors if error else self._metrics.updates).inc()


class Controller:
    """Runs until cancelled, then ends in order: no more writes, last events, the Lease handed over."""

    def __init__(self, api: Api, options: Options, metrics: Metrics) -> None:
        self._api, self._options, self._metrics = api, options, metrics
        settings = options.settings
        self.recorder = EventRecorder(api, COMPONENT)
        self.configs = Configs(api, self.recorder, metrics, settings)
        self.lease = Lease(
            api,
            settings.namespace,
            options.lease_name,
            owner=lambda: owner_reference(api, settings.namespace, settings.deployment),
        )
        self.term: Term | None = None
        self._running: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._config_watch = ListWatch(
            api,
            CONFIG_MAPS,
            Source.from_json,
            self.configs,
            namespace=settings.namespace,
            field_selector=f"metadata.name={settings.name}",
        )
        metrics.assigner = lambda: self.term.assigner if self.term else None

    async def run(self) -> None:
        options = self._options
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._config_watch.run())
                group.create_task(self.configs.run())
                group.create_task(self.recorder.run())
                group.create_task(
                    memberlist.keep(
                        self._api, options.settings.namespace, options.memberlist_secret, options.settings.deployment
                    )
                )
                group.create_task(self._watch_term())
                if options.leader_elect:
                    group.create_task(self.lease.run(self._acquired, self._lost))
                else:
                    self.lease.without = self.lease.held = True
                    self._acquired()
        finally:
            await self._shut_down()

    def _acquired(self) -> None:
        self._metrics.leader.set(1)
        options = self._options
        self.term = Term(self._api, self.recorder, self.configs, self.lease, options.rules, self._metrics)
        self._running = asyncio.create_task(self.term.run(), name="term")
        self._running.add_done_callback(lambda _: self._ended.set())

    def _lost(self) -> None:
        self._metrics.leader.set(0)
        self.term = None
        if self._running is not None:
            self._running.cancel()
            self._running = None

    async def _watch_term(self) -> None:
        """A term that ends by itself met a defect: the process must not look alive."""
        while True:
            await self._ended.wait()
            self._ended.clear()
            if self._running is not None and self._running.done():
                await self._running

    async def _shut_down(self) -> None:
        if self._running is not None:
            if self.term is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.term.writer.finish(), WRITE_TIMEOUT)
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                await asyncio.wait_for(asyncio.gather(self._running, return_exceptions=True), WRITE_TIMEOUT)
        await self.recorder.close(1.0)
        await self.lease.release()
        logs.info(op="shutdown", msg="the Lease is free")

    # --- pages ------------------------------------------------------------------------------------

    def ready(self) -> tuple[bool, str]:
        """Standing by, or leading with every Service known. A missing config is no reason to be down."""
        if self.term is None:
            standing_by = bool(self.lease.holder)
            return standing_by, "standing by" if standing_by else "no answer from the API server yet"
        if not self.term.assigner.synced:
            return False, "listing Services"
        return True, "leading"

    def status(self) -> dict[str, Any]:
        ready, why = self.ready()
        out: dict[str, Any] = {
            "ready": ready,
            "state": why,
            "lease": {"holder": self.lease.holder, "me": self.lease.me, "unavailable": self.lease.without},
            "config": self.configs.status(),
        }
        if self.term is not None:
            assigner = self.term.assigner
            out["services"] = assigner.summary() | {"writes_pending": len(self.term.writer)}
            out["pools"] = {
                name: {
                    "total": assigner.allocator.total(name),
                    "in_use": assigner.allocator.in_use(name),
                    "services": assigner.allocator.services(name),
                    "disabled": space.pool.disabled,
                }
                for name, space in assigner.allocator.table.by_name.items()
            }
            out["waiting"] = [{"service": k, "reason": r} for k, r in list(assigner.pending())[:100]]
        return out
