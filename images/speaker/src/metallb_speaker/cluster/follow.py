"""Following the configuration: the accepted one, or the user's own ConfigMap as 0.12 did.

With an accepted configuration the controller has judged it already: it is taken as it is. Without (the
original's RBAC and chart), a configuration that no longer covers an announced address is refused, and
tried again when Services change. A ConfigMap that is missing or wrong never displaces what is in use.
Where an accepted configuration is to be had and is not there, because the controller may not write it or
does not run, the user's own is followed: better than to announce nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from metallb_common.config.model import Config
from metallb_common.config.parse import Parsed
from metallb_common.kube.views import Json
from metallb_common.obs import logs
from metallb_speaker.cluster.pools import PoolIndex, parse_address
from metallb_speaker.cluster.view import Changes, ClusterView

#: A ConfigMap's data -> the configuration, errors, warnings.
Parser = Callable[[Mapping[str, str]], Parsed]
#: Seconds without an accepted configuration, and without any in use, after which the user's own is followed.
PATIENCE = 2.0


class ConfigFollower:
    """A watch's sink for the one ConfigMap; keeps `ClusterView.config`. If `accepted`, `own` is that for the user's."""

    def __init__(
        self,
        view: ClusterView,
        changes: Changes,
        parse: Parser,
        *,
        accepted: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view, self._changes, self._parse, self._accepted = view, changes, parse, accepted
        self._clock = clock
        self.own = OwnConfig(self)
        self._own_data: Mapping[str, str] | None = None
        self._by_own = False  # the configuration in use is the user's, for want of an accepted one
        self._absent_since: float | None = None
        self._data: Mapping[str, str] | None = None  # of the configuration in use
        self._refused: tuple[Mapping[str, str], Config] | None = None  # that Services stand against
        self.refusals = 0
        self.loaded = False
        self.stale = True
        self.problem = "no configuration yet"

    def replace(self, objects: list[Json]) -> None:
        if objects:
            self.upsert(objects[0])
        else:
            self._missing()

    def upsert(self, obj: Json) -> None:
        self._absent_since, self._by_own = None, False
        self._offer(dict(obj.get("data") or {}))

    def delete(self, obj: Json) -> None:
        self._missing()

    def retry(self) -> None:
        """Services have changed, or time has passed: what was refused may be fine by now."""
        if self._refused is not None:
            data, config = self._refused
            self._take(data, config, quiet=True)
        if self.due() and self._own_data is not None:
            logs.warn(event="noAcceptedConfig", msg="no accepted configuration: following the user's ConfigMap")
            self._by_own = True
            self._offer(self._own_data)

    def due(self) -> bool:
        """Whether nothing is accepted for so long that `retry` takes the user's own."""
        since = self._absent_since
        wanted = self._accepted and not self._by_own and self._view.config is None and self._own_data is not None
        return wanted and since is not None and self._clock() - since >= PATIENCE

    def offer_own(self, data: Mapping[str, str] | None) -> None:
        """The user's ConfigMap as it is now; None: it is not there."""
        self._own_data = data
        if self._by_own and data is not None:
            self._offer(data)
        elif self._by_own:
            self._fail("noConfig", "the ConfigMap does not exist")

    def _missing(self) -> None:
        if self._absent_since is None:
            self._absent_since = self._clock()
        if self._by_own:
            return
        self._refused = None
        self._fail("noConfig", "the ConfigMap does not exist" + ("" if self._view.config else "; waiting for it"))

    def _offer(self, data: Mapping[str, str]) -> None:
        if data == self._data:
            self._refused = None
            self._succeed()
            return
        parsed = self._parse(data)
        for warning in parsed.warnings:
            logs.warn(op="config", msg=str(warning))
        if parsed.config is None:
            self._refused = None
            self._fail("configStale", "; ".join(map(str, parsed.errors[:5])) or "not readable")
            return
        self._take(data, parsed.config)

    def _take(self, data: Mapping[str, str], config: Config, *, quiet: bool = False) -> None:
        judged = self._accepted and not self._by_own
        orphan = "" if judged or self._view.config is None else self._orphan(self._view.config, config)
        if orphan:
            self._refused = (data, config)
            message = f"new config not compatible with assigned IPs: {orphan}"
            if not quiet or message != self.problem:
                self._fail("configStale", message)
            return
        self._data, self._refused = data, None
        self._view.config = config
        self._changes.all()
        logs.info(event="configLoaded", msg="configuration loaded", pools=len(config.pools), peers=len(config.peers))
        self._succeed()

    def _orphan(self, old: Config, new: Config) -> str:
        """The first Service that would lose its address, in words; "" when none would."""
        before, after = PoolIndex(old), PoolIndex(new)
        for key, service in sorted(self._view.services.items()):
            for text in service.ingress_ips:
                address = parse_address(text)
                if address and before.find(address) and not after.find(address):
                    return f'service "{key}" cannot own "{address}" under new config'
        return ""

    def _succeed(self) -> None:
        self.loaded, self.stale, self.problem = True, False, ""

    def _fail(self, event: str, problem: str) -> None:
        self.stale = True
        self.refusals += 1
        if problem != self.problem:
            kept = "; keeping the last good one" if self._view.config else ""
            logs.warn(event=event, op="config", error=problem, msg=f"configuration not usable{kept}")
        self.problem = problem


class OwnConfig:
    """A watch's sink for the user's ConfigMap beside the accepted one."""

    def __init__(self, follower: ConfigFollower) -> None:
        self._follower = follower

    def replace(self, objects: list[Json]) -> None:
        self._follower.offer_own(dict(objects[0].get("data") or {}) if objects else None)

    def upsert(self, obj: Json) -> None:
        self._follower.offer_own(dict(obj.get("data") or {}))

    def delete(self, obj: Json) -> None:
        self._follower.offer_own(None)
