"""A set of objects, kept equal to the API server's: list in pages, then watch, for ever.

The raw JSON of an object lives only while it is parsed: what stays is what `parse` returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from metallb_common.kube.client import Api
from metallb_common.kube.errors import ApiError, Backoff
from metallb_common.kube.resources import Resource
from metallb_common.obs import logs

T = TypeVar("T")

PAGE = 500
#: Bookmarks come about once a minute: a watch that is silent for longer has lost its server.
IDLE = 80.0
#: Seconds after which we ask the server to end a watch; spread, so that watchers do not return together.
WATCH_SECONDS = (300, 600)
#: A watch that the server (or a proxy before it) ends sooner than this had no use: wait before the next.
SHORT = 1.0
#: Seconds between attempts, at most: nobody should be blind for long after the server is back.
RETRY_MOST = 10.0
#: A watch that lasted longer than this had worked, before it failed.
WORKED = 5.0
#: Seconds after which a denied resource is asked for again, at first and at most: somebody may grant it.
DENIED_RETRY = (4.0, 60.0)


class Sink(Protocol[T]):
    """Who is told. Calls come in the order of the API server's history, from one task."""

    def replace(self, objects: list[T]) -> None:
        """The whole set, after every (re)list."""

    def upsert(self, obj: T) -> None: ...

    def delete(self, obj: T) -> None: ...


class ListWatch(Generic[T]):
    """Feeds `sink` until cancelled. `synced` is set after the first whole list.

    `parse` may raise KeyError, TypeError or ValueError for an object that it cannot read: the object
    is left out, with a log line. `on_denied` is called when access is refused (403, or 404 for a
    resource that the server lacks), once until it is granted.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        parse: Callable[[Mapping[str, Any]], T],
        sink: Sink[T],
        *,
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
        on_denied: Callable[[ApiError], None] | None = None,
    ) -> None:
        self._api, self._resource, self._parse, self._sink = api, resource, parse, sink
        self._path = resource.path(namespace)
        selectors = {"fieldSelector": field_selector, "labelSelector": label_selector}
        self._selectors = {k: v for k, v in selectors.items() if v}
        self._on_denied = on_denied
        self._denied = False
        self._denials = Backoff(*DENIED_RETRY)
        self._failing = False
        self.synced = asyncio.Event()
        self.lists = 0  # how often the whole set was listed

    async def run(self) -> None:
        """For ever; ends only by being cancelled, or by an error in the sink."""
        backoff, version = Backoff(cap=RETRY_MOST), ""
        lost = False  # whether the last answer was that our version is too old
        while True:
            started = asyncio.get_running_loop().time()
            try:
                if not version:
                    version = await self._list()
                    self._restored()
                version = await self._watch(version)
            except _Moved as moved:
                version, error = moved.version, moved.error
            except ApiError as refused:
                error = refused
            else:
                lost = False
                if asyncio.get_running_loop().time() - started < SHORT:
                    await asyncio.sleep(backoff.next())
                else:
                    backoff.reset()
                continue
            if asyncio.get_running_loop().time() - started > WORKED:
                backoff.reset()  # a new trouble, not the old one
                lost = False
            if error.gone:
                version = ""
                if not lost:  # it answers again, as after its restart: what was refused before is over
                    backoff.reset()
                lost = True
            wait = self._trouble(error, backoff)
            if error.reason == "NotReady":
                await asyncio.sleep(min(wait, 1.0))  # it answers, and will be ready in a moment
            elif error.status:
                await asyncio.sleep(wait)
            else:
                await self._api.rest(wait)

    def _restored(self) -> None:
        if self._denied or self._failing:
            logs.info(op="watch", resource=str(self._resource), msg="reachable again")
        self._denied = self._failing = False
        self._denials.reset()

    def _trouble(self, error: ApiError, backoff: Backoff) -> float:
        """Say it once, and how long to wait."""
        if error.denied or error.status in (404, 405):
            if not self._denied:
                self._denied = True
                logs.warn(op="watch", resource=str(self._resource), error=str(error), msg="not allowed to watch")
                if self._on_denied:
                    self._on_denied(error)
            return self._denials.next()
        if error.gone:
            logs.info(op="watch", resource=str(self._resource), msg="history compacted; listing anew")
        elif not self._failing:
            self._failing = True
            logs.warn(op="watch", resource=str(self._resource), error=str(error), msg="will be tried again")
        return backoff.next(error.retry_after)

    async def _list(self) -> str:
        """List everything, hand it over, and return the resource version that it is true at."""
        objects: list[T] = []
        query = {"limit": str(PAGE), **self._selectors}
        while True:
            page = await self._api.request("GET", self._path, query=query, timeout=60.0)
            meta = page.get("metadata") or {}
            for item in page.get("items") or ():
                parsed = self._read(item)
                if parsed is not None:
                    objects.append(parsed)
            if not meta.get("continue"):
                break
            query["continue"] = meta["continue"]
            page.clear()
            await asyncio.sleep(0)  # parsing a page takes milliseconds: let timers run in between
        self.lists += 1
        self._sink.replace(objects)
        self.synced.set()
        return str(meta.get("resourceVersion") or "")

    def _read(self, item: Mapping[str, Any]) -> T | None:
        try:
            return self._parse(item)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            meta = item.get("metadata") if isinstance(item, Mapping) else None
            name = f"{meta.get('namespace', '')}/{meta.get('name', '')}" if isinstance(meta, Mapping) else "?"
            logs.error(op="parse", resource=str(self._resource), object=name, error=repr(error), msg="left out")
            return None

    async def _watch(self, version: str) -> str:
        """Follow from `version` until the server ends the watch; returns the version reached."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),  # noqa: S311
            **self._selectors,
        }
        lines = self._api.stream(self._path, query, idle=IDLE)
        try:
            async with contextlib.aclosing(lines):  # type: ignore[type-var]
                async for line in lines:
                    event = json.loads(line)
                    obj = event.get("object") or {}
                    if event.get("type") == "ERROR":
                        raise ApiError.from_status(int(obj.get("code") or 500), obj)
                    self._apply(event.get("type"), obj)
                    version = (obj.get("metadata") or {}).get("resourceVersion") or version
                    self._failing = False
        except ApiError as error:
            raise _Moved(version, error) from None
        except ValueError as error:  # cut in the middle of a line
            raise _Moved(version, ApiError(0, "Unreachable", f"not JSON: {error}")) from None
        return version

    def _apply(self, kind: str | None, obj: Mapping[str, Any]) -> None:
        if kind == "BOOKMARK":
            return
        parsed = self._read(obj)
        if parsed is None:
            return
        if kind == "DELETED":
            self._sink.delete(parsed)
        else:
            self._sink.upsert(parsed)


class _Moved(Exception):
    """A watch failed after it had got as far as `version`."""

    def __init__(self, version: str, error: ApiError) -> None:
        super().__init__(str(error))
        self.version, self.error = version, error
