"""Writes plans to the API server: many Services at once, each Service in order.

A write carries the resource version that the decision was made on: when the Service has changed since,
the server refuses it, and the Service is read and decided anew. A stale decision never lands.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from metallb_common.kube.client import Api
from metallb_common.kube.errors import ApiError, Backoff
from metallb_common.kube.events import EventRecorder
from metallb_common.kube.resources import SERVICES
from metallb_common.obs import logs
from metallb_controller.assigner import Assigner, reference
from metallb_controller.tracked import Tracked

#: Writes under way at once. More make the server slower for everybody without making us faster.
PARALLEL = 8
#: Seconds. Together with the Lease's renew deadline below its duration: a deposed leader's last write
#: is over before its successor's first (see lease.py).
WRITE_TIMEOUT = 1.2
#: Seconds after the begin of a write of which nobody knows the end: after that it does not happen any more.
SETTLED = 2 * WRITE_TIMEOUT


class Writer:
    """Workers over a queue of Service keys. `may_write` is asked at the last moment before each write.

    The assigner holds back who takes an address that another Service still shows, and submits it again.
    """

    def __init__(
        self,
        api: Api,
        assigner: Assigner,
        recorder: EventRecorder,
        may_write: Callable[[], bool],
        failed: Callable[[], None],
        wrote: Callable[[], None],
    ) -> None:
        self._api, self._assigner, self._recorder = api, assigner, recorder
        self._may_write, self._failed, self._wrote = may_write, failed, wrote
        self._queue: deque[str] = deque()
        self._queued: set[str] = set()
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._delays: dict[str, Backoff] = {}
        self._doubts: dict[str, float] = {}  # since when a write of this Service may have happened or not
        self._under_way = 0
        self._quiet = asyncio.Event()  # nothing is under way
        self._quiet.set()
        self._signal = asyncio.Event()

    def submit(self, key: str) -> None:
        """Write this Service soon; while it is being written: once more afterwards."""
        if key in self._busy:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._queue.append(key)
            self._signal.set()

    def __len__(self) -> int:
        return len(self._queue) + len(self._busy)

    async def finish(self) -> None:
        """Begin no more writes, and wait for those under way: one that is broken off may still happen, later on."""
        self._may_write = lambda: False
        await self._quiet.wait()

    async def run(self) -> None:
        """For ever; ends by being cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(PARALLEL):
                group.create_task(self._worker())

    async def _worker(self) -> None:
        while True:
            while not self._queue:
                self._signal.clear()
                await self._signal.wait()
            key = self._queue.popleft()
            self._queued.discard(key)
            self._busy.add(key)
            try:
                await self._write(key)
            except Exception as error:  # a defect met by one Service must not stop the others
                self._failed()
                logs.error(op="updateStatus", service=key, error=repr(error), msg="will be tried again")
                self._later(key, None)
            finally:
                self._busy.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.submit(key)

    async def _write(self, key: str) -> None:
        work = self._assigner.work(key)
        if work is None:
            self._delays.pop(key, None)
            if self._assigner.doubtful(key):
                await self._look(key)
            else:
                self._doubts.pop(key, None)
            return
        tracked, decided = work
        if decided.changes and decided.changes != tracked.announced:
            tracked.announced = decided.changes
            for say in decided.changes:  # told before it is done: a crash in between repeats it, never hides it
                await self._recorder.deliver(reference(tracked.view), say.type, say.reason, say.message)
            work = self._assigner.work(key)
            if work is None or work[1].changes != decided.changes:
                self._again.add(key)
                return
            tracked, decided = work
        if not self._may_write():
            self._later(key, None)
            return
        view = tracked.view
        path = SERVICES.path(view.namespace, view.name, "status")
        self._assigner.begins(key, decided)
        began = asyncio.get_running_loop().time()
        try:
            answer = await self._put(path, tracked.body(decided))
        except ApiError as error:
            unknown = error.status in (0, 408) or error.status >= 500
            self._assigner.ended(key, happened=None if unknown else False)
            if unknown:
                self._doubts[key] = began
            await self._refused(key, tracked, error)
            return
        self._wrote()
        self._delays.pop(key, None)
        self._doubts.pop(key, None)
        if decided.changes:
            event = "ipAllocated" if decided.ingress else "clearAssignment"
            logs.info(
                event=event, service=key, ips=list(decided.ingress or ()), pool=decided.from_pool, reason=decided.log
            )
        self._assigner.written(self._assigner.parse(answer))
        self._assigner.ended(key, happened=True)

    async def _put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self._under_way += 1
        self._quiet.clear()
        try:
            # The server gives up at the same time as we do, and does not write afterwards.
            return await self._api.request(
                "PUT",
                path,
                body=body,
                query={"timeout": f"{WRITE_TIMEOUT:g}s"},
                timeout=WRITE_TIMEOUT,
                once=True,  # who still leads is asked before each attempt
            )
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._quiet.set()

    async def _look(self, key: str) -> None:
        """Find out about a write that nobody answered; others may wait for what it might have added."""
        tracked = self._assigner.services[key]
        loop = asyncio.get_running_loop()
        early = self._doubts.get(key, 0.0) + SETTLED - loop.time()
        if early > 0:
            loop.call_later(early, self.submit, key)
            return
        path = SERVICES.path(tracked.view.namespace, tracked.view.name)
        try:
            now = await self._api.request("GET", path, timeout=WRITE_TIMEOUT)
        except ApiError as error:
            if error.status != 404:
                self._later(key, error)
            return
        self._doubts.pop(key, None)
        self._assigner.seen(Tracked.from_json(now))

    async def _refused(self, key: str, tracked: Tracked, error: ApiError) -> None:
        view = tracked.view
        if error.status == 404:
            return  # deleted; the watch will say so
        if error.status == 409 or error.status == 0:
            # Changed since, or nobody knows: look, rather than wait for a watch that may be behind.
            try:
                now = await self._api.request("GET", SERVICES.path(view.namespace, view.name), timeout=WRITE_TIMEOUT)
            except ApiError as second:
                if second.status != 404:
                    self._later(key, second)
                return
            self._assigner.written(Tracked.from_json(now))
            known = self._assigner.services.get(key)
            # One that was made anew is for the watch to bring: until then every attempt would end like this one.
            same = known is not None and known.view.resource_version == view.resource_version
            if error.status == 0 or same:
                self._later(key, error)
            else:
                self._again.add(key)
            return
        self._failed()
        if not error.transient:
            logs.error(op="updateStatus", service=key, error=str(error), msg="will be tried again")
        self._later(key, error)

    def _later(self, key: str, error: ApiError | None) -> None:
        backoff = self._delays.setdefault(key, Backoff(0.2, 15.0))
        delay = backoff.next(error.retry_after if error else None)
        asyncio.get_running_loop().call_later(delay, self.submit, key)
