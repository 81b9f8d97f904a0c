"""Which configuration is in force: the user's, once it parses and covers every address in use.

What is accepted is stored first (`accepted`), and addresses are given by it then: a controller that restarts
after a bad edit goes on with all that was ever decided by. A config that cannot be accepted, or not be stored,
changes nothing but the stale gauge, events and /status.
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
from metallb_common.obs import logs
from metallb_controller.accepted import REPAIR, Accepted, Stored
from metallb_controller.allocator import Conflict
from metallb_controller.assigner import Assigner, reference
from metallb_controller.metrics import Metrics

#: Events of one judgement about one object: enough to see what is wrong, too few to flood; no more than the
#: recorder sends at once.
MAX_EVENTS = BURST


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
        self._may_write: Callable[[], bool] = lambda: False
        self._accepted = Accepted(api, settings.namespace, settings.accepted, settings.deployment)
        self._accepted_read = False
        self._changed = asyncio.Event()
        self._backoff = Backoff(0.2, 10.0)
        self._parsed_for: Source | None = None  # what `_config`, `errors` and `warnings` were made from
        self._parsed = False
        self._config: Config | None = None
        self._told: tuple[str, ...] = ()
        self._told_services: dict[str, tuple[str, str]] = {}  # the refused version, and what the Service was told
        self._unstored = ""  # why what is accepted could not be stored
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

    def lead(self, assigner: Assigner, may_write: Callable[[], bool]) -> None:
        """A term begins: the accepted config is read anew, then the user's is judged.

        What was in force in an earlier term counts no longer: another may have led with a newer one since.
        """
        self._assigner, self._may_write, self._accepted_read = assigner, may_write, False
        self.in_force = None
        self._told, self._told_services = (), {}
        self._changed.set()

    def follow(self, assigner: Assigner) -> None:
        """The term of this assigner is over. What it said of the config is the next leader's to say."""
        if self._assigner is assigner:
            self._assigner = None
            self.conflicts, self._unstored = [], ""
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
            before = await self._read_accepted()
            if self._assigner is not assigner:
                return  # of another term, which reads for itself
            self._accepted_read = True
            self.in_force = before
        if self.in_force is not None and assigner.config is None:
            # Addresses may have been given by another one, if the installation was rolled back meanwhile. So the
            # user's is judged before anything is decided.
            assigner.accept(self.in_force.config, provisional=True)
        wanted = self._judge(assigner)
        if wanted is not None:
            await self._store(wanted)
            if self._assigner is not assigner:
                return
            wanted = self._judge(assigner)  # an address may have been given while it was being stored
        if wanted is not None:
            self._use(wanted, assigner)
        if assigner.synced:
            assigner.confirm()
        if self.in_force is not None:  # also where the user's is refused: it is all that a restart would know then
            await self._accepted.write(self.in_force.text, self.in_force.version, self._may_write)

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

    def _judge(self, assigner: Assigner) -> InForce | None:
        """The user's config if it can be in force; None if it is refused, which is told, or not judged yet."""
        source, config = self._parsed_for, self._config
        self.conflicts = []
        if source is None or config is None:
            self._refuse("ConfigInvalid", self.errors)
            return None
        text = source.data.get("config") or ""
        if self.in_force is not None and self.in_force.text != text:
            if not assigner.synced:
                return None  # judged against allocations, which are not known yet: `synced` comes
            if not self._settings.reallocate:
                self.conflicts = assigner.conflicts(config)
            if self.conflicts:
                self._refuse_conflicts(assigner, source)
                return None
        return InForce(config, text, source.version)

    async def _store(self, wanted: InForce) -> None:
        """Before anything is decided by it. Raises ApiError, to be tried again."""
        try:
            await self._accepted.write(wanted.text, wanted.version, self._may_write)
        except ApiError as error:
            again, self._unstored = bool(self._unstored), f"it is not used until it can be stored: {error}"
            self._gauges(stale=True)
            if again:  # the first time is no news: servers restart
                self._say("ConfigStale", (self._unstored,))
            raise
        self._unstored = ""

    def _use(self, wanted: InForce, assigner: Assigner) -> None:
        """What is stored is in force from now on."""
        if self.in_force is None or self.in_force.text != wanted.text:
            assigner.accept(wanted.config)
            logs.info(event="configLoaded", msg="configuration accepted", version=wanted.version)
        self.in_force = wanted
        self._say("ConfigWarning", self.warnings)
        self._gauges(stale=False)

    async def _read_accepted(self) -> InForce | None:
        """What was in force before this term. Raises ApiError when nobody answers."""
        stored = await self._accepted.read()
        if stored is None:
            return None
        from metallb_common.config.parse import parse

        parsed = await asyncio.to_thread(parse, stored.text)
        if parsed.config is None:
            logs.error(op="setConfig", error=str(parsed.errors[0]), msg="the accepted config was damaged; ignored")
            self._accepted.text = None
            return None
        return InForce(parsed.config, stored.text, stored.version)

    def watch_stored(self) -> ListWatch[Stored] | None:
        """What a term watches, so that the accepted config is there when somebody deleted or changed it."""
        return self._accepted.watch(lambda: asyncio.get_running_loop().call_later(REPAIR, self._repair))

    def _repair(self) -> None:
        if self._assigner is not None and self.in_force is not None and self._accepted.text != self.in_force.text:
            logs.warn(op="setConfig", msg=f"somebody deleted or changed {self._accepted.name}: it is written again")
            self._changed.set()

    # --- telling ----------------------------------------------------------------------------------

    def _gauges(self, *, stale: bool) -> None:
        self._metrics.config_stale.set(1 if stale else 0)
        if self.in_force is not None or (self._assigner is None and self._config is not None):
            self._metrics.config_loaded.set(1)

    def _refuse(self, reason: str, texts: tuple[str, ...]) -> None:
        self._unstored = ""
        self._gauges(stale=True)
        if self._say(reason, texts):
            self._metrics.update_errors.inc()

    def _refuse_conflicts(self, assigner: Assigner, source: Source) -> None:
        """Told on the ConfigMap, and once on each Service in the way however often it is judged again."""
        found: dict[str, list[str]] = {}
        for conflict in self.conflicts:
            found.setdefault(conflict.key, []).append(str(conflict))
        texts = {key: f"new config not compatible with assigned IPs: {'; '.join(c)}" for key, c in found.items()}
        self._refuse("ConfigStale", tuple(texts.values()))
        told, self._told_services = self._told_services, {k: (source.version, text) for k, text in texts.items()}
        for key, text in texts.items():
            tracked = assigner.services.get(key)
            if tracked is not None and told.get(key) != (source.version, text):
                ref = reference(tracked.view)
                self._recorder.emit(ref, "Warning", "ConfigStale", text, version=source.version)

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
            "errors": [*([self._unstored] if self._unstored else ()), *self.errors[:MAX_EVENTS]],
            "warnings": list(self.warnings[:MAX_EVENTS]),
            "conflicts": [{"service": c.key, "ip": str(c.address)} for c in self.conflicts],
            "conflicts_total": len(self.conflicts),
        }


def _warm() -> None:
    """Load the parser and its schema before the first document comes: it takes as long as many writes do."""
    from metallb_common.config.parse import parse

    parse("")
