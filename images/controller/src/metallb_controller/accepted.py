"""The ConfigMap that keeps the accepted config: speakers follow it, and a term begins with it.

Only who leads writes it: the Lease is asked at the last moment, and a write is over before another can lead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from metallb_common.kube.client import Api
from metallb_common.kube.errors import ApiError
from metallb_common.kube.listwatch import ListWatch
from metallb_common.kube.resources import CONFIG_MAPS, DEPLOYMENTS
from metallb_common.obs import logs
from metallb_controller.apply import WRITE_TIMEOUT
from metallb_controller.tracked import newer

SOURCE_VERSION = "metallb.io/source-resource-version"
#: Seconds before the stored config is written again that somebody deleted or changed: who does so over and over
#: gets one write in this time.
REPAIR = 1.0
#: Seconds for a question.
READ_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Stored:
    """The object as it is now."""

    text: str
    version: str  # of the user's ConfigMap that it came from
    owners: frozenset[str]  # uids
    resource_version: str

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Stored:
        meta = obj.get("metadata") or {}
        return cls(
            str((obj.get("data") or {}).get("config") or ""),
            (meta.get("annotations") or {}).get(SOURCE_VERSION, ""),
            frozenset(str(owner.get("uid", "")) for owner in meta.get("ownerReferences") or ()),
            str(meta.get("resourceVersion") or ""),
        )


class Accepted:
    """Without a `name`, or the right to write it, nothing is kept: it lives as long as this process does."""

    def __init__(self, api: Api, namespace: str, name: str, deployment: str) -> None:
        self._api, self._namespace, self.name, self._deployment = api, namespace, name, deployment
        self.text: str | None = None  # what the object holds; None: nothing, or nobody knows
        self._version = ""  # the newest resource version of it that we know
        self._owned = False  # whether it goes away with its Deployment
        self._owner = ""  # the Deployment's uid, when it was last asked for
        self._wrote = False  # whether we may write it
        self._denied = False

    def _path(self, name: str = "") -> str:
        return CONFIG_MAPS.path(self._namespace, name)

    async def _find(self) -> Stored | None:
        try:
            found = await self._api.request("GET", self._path(self.name), timeout=READ_TIMEOUT)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return Stored.from_json(found)

    async def read(self) -> Stored | None:
        """What it holds; nothing that was known before counts. Raises ApiError when nobody answers."""
        self.text, self._version = None, ""
        if not self.name:
            return None
        try:
            stored = await self._find()
        except ApiError as error:
            if error.denied and not self._wrote:
                self._deny(error)
                return None
            raise
        if stored is None:
            return None
        owner = await owner_reference(self._api, self._namespace, self._deployment)
        self._owner = owner["uid"] if owner else ""
        self._holds(stored)
        return stored

    def _holds(self, stored: Stored) -> None:
        self._owned, self._version = bool(stored.owners), stored.resource_version
        # One whose Deployment was made anew would go away with the one that was: it is written again.
        self.text = None if self._owner and self._owner not in stored.owners else stored.text

    async def write(self, text: str, version: str, may_write: Callable[[], bool]) -> None:
        """Returns when it holds this text, or cannot hold any. Raises ApiError, to be tried again."""
        if not self.name or self._denied or self.text == text:
            return
        try:
            owner = await owner_reference(self._api, self._namespace, self._deployment)
            now = await self._find()
            if now is None and self._owned and owner is None:
                return  # uninstalled with its owner: one made now would stay behind
            if not may_write():
                raise ApiError(0, "NotLeading", "the Lease was not renewed in time")
            self.text = None  # until there is an answer
            answer = await self._api.request(
                "PUT" if now else "POST",
                self._path(self.name if now else ""),
                body=self._body(text, version, owner, now.resource_version if now else ""),
                query={"timeout": f"{WRITE_TIMEOUT:g}s"},
                timeout=WRITE_TIMEOUT,
                once=True,  # who still leads is asked before each attempt
            )
        except ApiError as error:
            if error.denied and not self._wrote:
                self._deny(error)
                return
            raise
        self.text, self._owned, self._wrote = text, bool(owner), True
        self._owner, self._version = owner["uid"] if owner else "", Stored.from_json(answer).resource_version

    def _body(self, text: str, version: str, owner: dict[str, str] | None, replaces: str) -> dict[str, Any]:
        meta: dict[str, Any] = {
            "name": self.name,
            "namespace": self._namespace,
            "annotations": {SOURCE_VERSION: version},
        }
        if owner:
            meta["ownerReferences"] = [owner]
        if replaces:
            meta["resourceVersion"] = replaces
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"config": text}}

    def _deny(self, error: ApiError) -> None:
        if not self._denied:
            logs.warn(
                op="setConfig",
                error=str(error),
                msg="the accepted config cannot be stored; it lives as long as this process does",
            )
        self._denied = True

    def watch(self, changed: Callable[[], object]) -> ListWatch[Stored] | None:
        """Keeps `text` as the object is, and tells of every change."""
        if not self.name:
            return None
        return ListWatch(
            self._api,
            CONFIG_MAPS,
            Stored.from_json,
            _Sink(self._is, changed),
            namespace=self._namespace,
            field_selector=f"metadata.name={self.name}",
        )

    def _is(self, stored: Stored | None) -> None:
        if stored is None:
            self.text = None
        elif newer(self._version, stored.resource_version):  # else it is older than what we wrote
            self._holds(stored)


class _Sink:
    """The watch of that one object, as one question: what it is now."""

    def __init__(self, now: Callable[[Stored | None], None], changed: Callable[[], object]) -> None:
        self._now, self._changed = now, changed

    def replace(self, objects: list[Stored]) -> None:
        self._now(objects[0] if objects else None)
        self._changed()

    def upsert(self, obj: Stored) -> None:
        self.replace([obj])

    def delete(self, obj: Stored) -> None:
        self.replace([])


async def owner_reference(api: Api, namespace: str, deployment: str) -> dict[str, str] | None:
    """The Deployment as an owner, so that what we make goes away with it; None when it is not known."""
    if not deployment:
        return None
    try:
        found = await api.request("GET", DEPLOYMENTS.path(namespace, deployment), timeout=READ_TIMEOUT)
    except ApiError as error:
        if error.denied or error.status == 404:
            logs.warn(op="owner", error=str(error), msg="made without an owner: remove it by hand after uninstalling")
            return None
        raise
    uid = (found.get("metadata") or {}).get("uid", "")
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment, "uid": uid}
