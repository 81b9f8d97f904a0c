"""Which configuration is in force: the user's, once it parses and covers every address in use.

What is accepted is stored in a ConfigMap of its own (when the chart names one): speakers follow that,
and a controller that restarts after a bad edit goes on with it. A config that cannot be accepted changes
nothing but the stale gauge, events and /status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from metallb_common.config.model import Config
from metallb_common.kube.client import Api
from metallb_common.kube.errors import ApiError, Backoff
from metallb_common.kube.events import BURST, EventRecorder, ObjectRef
from metallb_common.kube.listwatch import ListWatch
from metallb_common.kube.resources import CONFIG_MAPS, DEPLOYMENTS
from metallb_common.obs import logs
from metallb_controller.allocator import Conflict
from metallb_controller.assigner import Assigner, reference
from metallb_controller.metrics import Metrics

SOURCE_VERSION = "metallb.io/source-resource-version"
#: Events of one judgement: enough to see what is wrong, too few to flood; no more than the recorder sends at once.
MAX_EVENTS = BURST
#: Seconds before the stored config is written again that somebody deleted or changed: who does so over and over
#: gets one write in this time.
REPAIR = 1.0


@dataclass(frozen=True, slots=True)
class Source:
    """The user's ConfigMap as it is now."""

    data: Mapping[str, str]
    version: str
    uid: str

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Source:
        meta = obj["metadata"]
        return cls(dict(obj.get("data") or {}), meta.get("resourceVersion", ""), meta.get("uid", ""))


@dataclass(frozen=True, slots=True)
class Stored:
    """The object that keeps the accepted config, as it is now."""

    text: str
    version: str  # of the user's ConfigMap that it came from
    owners: frozenset[str]  # uids

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Stored:
        meta = obj.get("metadata") or {}
        return cls(
            str((obj.get("data") or {}).get("config") or ""),
            (meta.get("annotations") or {}).get(SOURCE_VERSION, ""),
            frozenset(str(owner.get("uid", "")) for owner in meta.get("ownerReferences") or ()),
        )


@dataclass(frozen=True, slots=True)
class InForce:
    """What addresses are given by. `text` is the document, `version` the ConfigMap's it came from."""

    config: Config
    text: str
    version: str


@dataclass(frozen=True, slots=True)
class Settings:
    namespace: str
    name: str
    accepted: str  # name of the object for what was accepted; empty: none
    deployment: str  # owner of that object; empty: none
    reallocate: bool  # whether a config may take addresses away


class Configs:
    """The sink of the ConfigMap's watch, and the task that judges. Nothing is judged while not leading."""

    def __init__(self, api: Api, recorder: EventRecorder, metrics: Metrics, settings: Settings) -> None:
        self._api, self._recorder, self._metrics, self._settings = api, recorder, metrics, settings
        self._source: Source | None = None
        self._listed = False
        self._assigner: Assigner | None = None
        self._accepted_read = False
        self._stored: str | None = None  # the text that the accepted object holds, as far as we know
        self._owned = False  # whether it goes away with its Deployment
        self._wrote = False  # whether we may write it
        self._store_denied = False
        self._changed = asyncio.Event()
        self._backoff = Backoff(0.2, 10.0)
        self._parsed_for: Source | None = None  # what `_config`, `errors` and `warnings` were made from
        self._parsed = False
        self._config: Config | None = None
        self._told: tuple[str, ...] = ()
        self.in_force: InForce | None = None
        self.errors: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.conflicts: list[Conflict] = []

    # --- the watch --------------------------------------------------------------------------------

    def replace(self, objects: list[Source]) -> None:
        self._listed = True
        self._source = objects[0] if objects else None
        self._changed.set()

    def upsert(self, obj: Source) -> None:
        self._metrics.updates.inc()
        self.replace([obj])

    def delete(self, obj: Source) -> None:
        self._metrics.updates.inc()
        self.replace([])

    # --- terms ------------------------------------------------------------------------------------

    def lead(self, assigner: Assigner) -> None:
        """A term begins: the accepted config is read anew, then the user's is judged."""
        self._assigner, self._accepted_read = assigner, False
        self._told = ()
        self._changed.set()

    def follow(self, assigner: Assigner) -> None:
        """The term of this assigner is over. What it said of the config is the next leader's to say."""
        if self._assigner is assigner:
            self._assigner = None
            self.conflicts = []
            self._changed.set()

    def synced(self) -> None:
        """Every Service is known: a new config can be judged against what they hold."""
        self._changed.set()

    def freed(self) -> None:
        """An address was freed: what was refused for its sake may be acceptable now."""
        if self.conflicts:
            self._changed.set()

    async def run(self) -> None:
        """For ever; ends by being cancelled."""
        await asyncio.to_thread(_warm)
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._round()
                self._backoff.reset()
            except ApiError as error:
                logs.warn(op="setConfig", error=str(error), msg="will be tried again")
                asyncio.get_running_loop().call_later(self._backoff.next(error.retry_after), self._changed.set)

    async def _round(self) -> None:
        if not self._listed:
            return
        await self._parse()
        assigner = self._assigner
        if assigner is None:
            self._gauges(stale=self._config is None)
            return
        if not self._accepted_read:
            await self._read_accepted()
            self._accepted_read = True
        if self._assigner is not assigner:
            return
        if self.in_force is not None and assigner.config is None:
            # Addresses may have been given by a newer one: an installation that was rolled back meanwhile, or a
            # crash before it was stored. So the user's is judged before anything is decided.
            assigner.accept(self.in_force.config, provisional=True)
        self._judge(assigner)
        if assigner.synced:
            assigner.confirm()
        await self._store()

    async def _parse(self) -> None:
        source = self._source
        if self._parsed and source is self._parsed_for:
            return
        if source is None:
            self._config, self.errors, self.warnings = None, (f"ConfigMap {self._settings.name} does not exist",), ()
            logs.warn(event="noConfig", msg=self.errors[0])
        else:
            from metallb_common.config.parse import from_config_map

            # In a thread: ten thousand pools take seconds, and the Lease wants renewing meanwhile.
            parsed = await asyncio.to_thread(from_config_map, source.data)
            self._config = parsed.config
            self.errors = tuple(map(str, parsed.errors))
            self.warnings = tuple(map(str, parsed.warnings))
        self._parsed_for, self._parsed = source, True

    def _judge(self, assigner: Assigner) -> None:
        source, config = self._parsed_for, self._config
        if source is None or config is None:
            self.conflicts = []
            self._refuse("ConfigInvalid", self.errors)
            return
        text = source.data.get("config") or ""
        if self.in_force is None or self.in_force.text != text:
            if self.in_force is not None:
                if not assigner.synced:
                    return  # judged against allocations, which are not known yet: `synced` comes
                self.conflicts = assigner.conflicts(config)
                if self.conflicts and not self._settings.reallocate:
                    self._refuse_conflicts(assigner)
                    return
            assigner.accept(config)
            logs.info(event="configLoaded", msg="configuration accepted", version=source.version)
        self.in_force = InForce(config, text, source.version)
        self.conflicts = []
        self._say("ConfigWarning", self.warnings)
        self._gauges(stale=False)

    # --- telling ----------------------------------------------------------------------------------

    def _gauges(self, *, stale: bool) -> None:
        self._metrics.config_stale.set(1 if stale else 0)
        if self.in_force is not None or (self._assigner is None and self._config is not None):
            self._metrics.config_loaded.set(1)

    def _refuse(self, reason: str, texts: tuple[str, ...]) -> None:
        self._gauges(stale=True)
        if self._say(reason, texts):
            self._metrics.update_errors.inc()

    def _refuse_conflicts(self, assigner: Assigner) -> None:
        texts = tuple(f"new config not compatible with assigned IPs: {c}" for c in self.conflicts)
        told = self._told
        self._refuse("ConfigStale", texts)
        if self._told == told:
            return  # nothing new
        for conflict in self.conflicts[:MAX_EVENTS]:
            tracked = assigner.services.get(conflict.key)
            if tracked is not None:
                text = f"new config not compatible with assigned IPs: {conflict}"
                self._recorder.emit(reference(tracked.view), "Warning", "ConfigStale", text)

    def _say(self, reason: str, texts: tuple[str, ...]) -> bool:
        """Events on the ConfigMap, and log lines; once, until it changes. Whether it was news."""
        told = (reason, self._source.version if self._source else "", *texts)
        if told == self._told:
            return False
        self._told = told
        event = "configStale" if reason != "ConfigWarning" else "configWarning"
        for text in texts[:MAX_EVENTS]:
            logs.warn(event=event, error=text, configmap=self._settings.name)
        if self._source is None:
            return True
        ref = ObjectRef("ConfigMap", self._settings.name, self._settings.namespace, self._source.uid)
        shown = (
            texts if len(texts) <= MAX_EVENTS else (*texts[: MAX_EVENTS - 1], f"and {len(texts) - MAX_EVENTS + 1} more")
        )
        for text in shown:
            self._recorder.emit(ref, "Warning", reason, text, version=self._source.version)
        return True

    def status(self) -> dict[str, Any]:
        return {
            "configmap": self._settings.name,
            "resource_version": self._source.version if self._source else None,
            "accepted_resource_version": self.in_force.version if self.in_force else None,
            "stale": bool(self._metrics.config_stale.get()),
            "errors": list(self.errors[:MAX_EVENTS]),
            "warnings": list(self.warnings[:MAX_EVENTS]),
            "conflicts": [{"service": c.key, "ip": str(c.address)} for c in self.conflicts[:MAX_EVENTS]],
            "conflicts_total": len(self.conflicts),
        }

    # --- the accepted object ----------------------------------------------------------------------

    def _path(self, name: str = "") -> str:
        return CONFIG_MAPS.path(self._settings.namespace, name)

    async def _read_accepted(self) -> None:
        """What was in force before this term. Raises ApiError when nobody answers."""
        self._stored = None
        if not self._settings.accepted:
            return
        from metallb_common.config.parse import parse

        try:
            found = await self._api.request("GET", self._path(self._settings.accepted), timeout=5.0)
        except ApiError as error:
            if error.status == 404:
                return
            if error.denied and not self._wrote:
                self._denied(error)
                return
            raise
        stored = Stored.from_json(found)
        self._owned = bool(stored.owners)
        owner = await owner_reference(self._api, self._settings.namespace, self._settings.deployment)
        parsed = await asyncio.to_thread(parse, stored.text)
        if parsed.config is None:
            logs.error(op="setConfig", error=str(parsed.errors[0]), msg="the accepted config was damaged; ignored")
            return
        # One whose Deployment was made anew would go away with the one that was: it is written again.
        self._stored = None if owner and owner["uid"] not in stored.owners else stored.text
        self.in_force = InForce(parsed.config, stored.text, stored.version)

    def watch_stored(self) -> ListWatch[Stored] | None:
        """What a term watches, so that the accepted config is there when somebody deleted or changed it."""
        name, namespace = self._settings.accepted, self._settings.namespace
        if not name:
            return None
        selector = f"metadata.name={name}"
        return ListWatch(
            self._api,
            CONFIG_MAPS,
            Stored.from_json,
            _StoredSink(self._is),
            namespace=namespace,
            field_selector=selector,
        )

    def _is(self, stored: Stored | None) -> None:
        self._stored = stored.text if stored else None
        self._owned = bool(stored.owners) if stored else self._owned
        asyncio.get_running_loop().call_later(REPAIR, self._repair)

    def _repair(self) -> None:
        if self._assigner is not None and self.in_force is not None and self._stored != self.in_force.text:
            logs.warn(op="setConfig", msg=f"somebody deleted or changed {self._settings.accepted}: it is written again")
            self._changed.set()

    def _denied(self, error: ApiError) -> None:
        if not self._store_denied:
            logs.warn(
                op="setConfig",
                error=str(error),
                msg="the accepted config cannot be stored; it lives as long as this process does",
            )
        self._store_denied = True

    async def _store(self) -> None:
        """Write what is in force to its object. Raises ApiError, to be tried again."""
        name, in_force = self._settings.accepted, self.in_force
        if not name or in_force is None or self._store_denied or self._stored == in_force.text:
            return
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name,
                "namespace": self._settings.namespace,
                "annotations": {SOURCE_VERSION: in_force.version},
            },
            "data": {"config": in_force.text},
        }
        try:
            owner = await owner_reference(self._api, self._settings.namespace, self._settings.deployment)
            if owner:
                body["metadata"]["ownerReferences"] = [owner]
            try:
                await self._api.request("PUT", self._path(name), body=body, timeout=5.0)
            except ApiError as error:
                if error.status != 404:
                    raise
                if self._owned and owner is None:
                    return  # uninstalled with its owner: one made now would stay behind
                await self._api.request("POST", self._path(), body=body, timeout=5.0)
        except ApiError as error:
            if error.denied and not self._wrote:
                self._denied(error)
                return
            raise
        self._stored, self._owned, self._wrote = in_force.text, bool(owner), True


class _StoredSink:
    """The watch of that one object, as one question: what it is now."""

    def __init__(self, told: Callable[[Stored | None], None]) -> None:
        self._told = told

    def replace(self, objects: list[Stored]) -> None:
        self._told(objects[0] if objects else None)

    def upsert(self, obj: Stored) -> None:
        self._told(obj)

    def delete(self, obj: Stored) -> None:
        self._told(None)


def _warm() -> None:
    """Load the parser and its schema before the first document comes: it takes as long as many writes do."""
    from metallb_common.config.parse import parse

    parse("")


async def owner_reference(api: Api, namespace: str, deployment: str) -> dict[str, str] | None:
    """The Deployment as an owner, so that what we make goes away with it; None when it is not known."""
    if not deployment:
        return None
    try:
        found = await api.request("GET", DEPLOYMENTS.path(namespace, deployment), timeout=5.0)
    except ApiError as error:
        if error.denied or error.status == 404:
            logs.warn(op="owner", error=str(error), msg="made without an owner: remove it by hand after uninstalling")
            return None
        raise
    uid = (found.get("metadata") or {}).get("uid", "")
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment, "uid": uid}
