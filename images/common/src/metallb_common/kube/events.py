"""Kubernetes Events (core/v1) about objects: never in the way of work, never a flood.

Equal events are one object with a count (PATCH), and each object has a budget: a Service that is
reconciled a thousand times tells its story a handful of times. What is told before it is done (`deliver`)
has a budget of its own: no number of complaints keeps a change from being told.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

from metallb_common.kube.client import Api
from metallb_common.kube.errors import ApiError, Backoff
from metallb_common.kube.resources import EVENTS
from metallb_common.obs import logs

#: Events remembered for aggregation, and objects with a budget. Bounds memory: some 2 MiB when full.
REMEMBERED = 2048
#: Equal events this close together (seconds) become one with a count; the API keeps events an hour.
AGGREGATE_SECONDS = 600.0
#: Per object: this many at once, then one more each REFILL seconds (24,000 events in ten minutes is
#: what one busy Service made of a recorder without a budget).
BURST = 10
REFILL = 30.0
#: Waiting events; beyond it the oldest is dropped and counted: news matter more.
QUEUE = 20_000
#: Equal ones are patched at most this often (seconds).
PATCH_EVERY = 10.0
#: Parallel requests: events must not crowd out status writes.
PARALLEL = 4
DENIED_PAUSE = 60.0
#: After so many events in a row that the server did not take in time, `deliver` only queues for HUNG_PAUSE seconds,
#: and then lets one find out: the store of events may hang while everything else works.
HUNG = 3
HUNG_PAUSE = 10.0
MAX_MESSAGE = 1024  # the API's own limit for notes, and what other components cut at


#: The budget of what is told before it is done; resource versions, which name others, are numbers.
_DELIVERED = "delivered"


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """The object that an event is about (involvedObject)."""

    kind: str
    name: str
    namespace: str = ""
    uid: str = ""
    api_version: str = "v1"


@dataclass(slots=True)
class _Series:
    """Equal events: what was sent, and what still has to be."""

    ref: ObjectRef
    type: str
    reason: str
    message: str
    first: str  # RFC 3339
    name: str = ""  # of the Event object, once created
    sent: int = 0
    count: int = 0
    last: str = ""
    sent_at: float = float("-inf")
    queued: bool = False
    busy: bool = False  # being sent right now


@dataclass(slots=True)
class _Budget:
    tokens: float = BURST
    at: float = 0.0


@dataclass(slots=True)
class _State:
    series: OrderedDict[tuple[ObjectRef, str, str, str], _Series] = field(default_factory=OrderedDict)
    budgets: OrderedDict[tuple[ObjectRef, str], _Budget] = field(default_factory=OrderedDict)


class EventRecorder:
    """`emit` from anywhere in the event loop; `run` sends, `close` sends what is left."""

    def __init__(self, api: Api, component: str, host: str = "") -> None:
        self._api, self._component, self._host = api, component, host
        self._state = _State()
        self._queue: deque[_Series] = deque()
        self._wake = asyncio.Event()
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._paused_until = 0.0
        self._said_denied = False
        self._in_vain = 0  # deliveries in a row
        self._hung_until = 0.0
        self.dropped = 0  # by budget, by a full queue, or refused by the server

    def emit(self, ref: ObjectRef, type: str, reason: str, message: str, *, version: str = "") -> None:
        """Queue one event; `type` is Normal or Warning. Returns at once, never raises.

        With `version` each version of the object has a budget of its own: for objects that only people edit,
        whose every edit deserves an answer.
        """
        now = time.monotonic()
        series = self._count(ref, type, reason, message, now)
        if series.queued or series.busy or (series.sent and now - series.sent_at < PATCH_EVERY):
            return  # it will ride along with the next one
        if not self._spend(ref, now, version):
            self.dropped += 1
            return
        self._put(series)

    def _put(self, series: _Series) -> None:
        if len(self._queue) >= QUEUE:
            self._queue.popleft().queued = False
            self.dropped += 1
        series.queued = True
        self._queue.append(series)
        self._wake.set()

    async def deliver(self, ref: ObjectRef, type: str, reason: str, message: str, *, seconds: float = 1.0) -> bool:
        """Send one event now, before something that it tells of is done; whether the server took it.

        One attempt, and none while events are denied, hang, or this object's budget is spent: an event must
        not hold up what it tells of. One that the server cannot take now is queued. Never raises.
        """
        now = time.monotonic()
        series = self._count(ref, type, reason, message, now)
        if now < self._paused_until or series.queued or series.busy or not self._spend(ref, now, _DELIVERED):
            self.dropped += not (series.queued or series.busy)
            return False
        if now < self._hung_until:
            self._put(series)
            return False
        if self._in_vain >= HUNG:
            self._hung_until = now + HUNG_PAUSE  # the others need not wait for what this one finds out
        try:
            await self._write(series, seconds)
        except ApiError as error:
            self._count_in_vain(error)
            if error.denied:
                self._deny(error)
            elif not series.queued and (error.transient or error.status == 404):
                if error.status == 404:
                    series.name = ""  # it expired: to be created anew
                self._put(series)
            else:
                self.dropped += 1
            return False
        self._in_vain, self._hung_until = 0, 0.0
        return True

    def _count_in_vain(self, error: ApiError) -> None:
        if not error.transient:
            return
        self._in_vain += 1
        if self._in_vain == HUNG:
            self._hung_until = time.monotonic() + HUNG_PAUSE
            logs.warn(op="events", error=str(error), msg="Events are not taken in time: nothing waits for them")

    def _count(self, ref: ObjectRef, type: str, reason: str, message: str, now: float) -> _Series:
        """The series of equal events that this one belongs to, with it counted."""
        stamp = _stamp()
        message = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
        key = (ref, type, reason, message)
        series = self._state.series.get(key)
        if series is None or (series.sent and now - series.sent_at > AGGREGATE_SECONDS):
            series = _Series(ref, type, reason, message, stamp)
            self._state.series[key] = series
        self._state.series.move_to_end(key)
        while len(self._state.series) > REMEMBERED:
            self._state.series.popitem(last=False)
        series.count += 1
        series.last = stamp
        return series

    def _spend(self, ref: ObjectRef, now: float, version: str = "") -> bool:
        budgets, key = self._state.budgets, (ref, version)
        budget = budgets.get(key)
        if budget is None:
            budget = budgets[key] = _Budget(at=now)
        budgets.move_to_end(key)
        while len(budgets) > REMEMBERED:
            budgets.popitem(last=False)
        budget.tokens = min(BURST, budget.tokens + (now - budget.at) / REFILL)
        budget.at = now
        if budget.tokens < 1:
            return False
        budget.tokens -= 1
        return True

    async def run(self) -> None:
        """Send for ever; ends by being cancelled."""
        await asyncio.gather(*(self._worker() for _ in range(PARALLEL)))

    async def _worker(self) -> None:
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            await self._send(self._queue.popleft())

    async def close(self, timeout: float = 2.0) -> None:  # noqa: ASYNC109 (a deadline for the caller's shutdown)
        """Send what is queued, for at most `timeout` seconds; `run` may be running or not."""

        async def drain() -> None:
            while self._queue:
                await self._send(self._queue.popleft())
            await self._idle.wait()

        try:
            await asyncio.wait_for(drain(), timeout)
        except TimeoutError:
            logs.warn(op="events", msg="not sent before the end", pending=len(self._queue))

    async def _send(self, series: _Series) -> None:
        series.queued = False
        if time.monotonic() < self._paused_until:
            self.dropped += 1
            return
        self._busy += 1
        self._idle.clear()
        backoff = Backoff(0.5, 10.0)
        try:
            for _ in range(5):
                try:
                    await self._write(series)
                    return
                except ApiError as error:
                    if error.status == 404 and series.name:
                        series.name = ""  # it expired: create it anew
                    elif error.denied:
                        self._deny(error)
                        return
                    elif not error.transient:
                        break
                    else:
                        await asyncio.sleep(backoff.next(error.retry_after))
            self.dropped += 1
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    def _deny(self, error: ApiError) -> None:
        self.dropped += 1
        self._paused_until = time.monotonic() + DENIED_PAUSE
        if not self._said_denied:
            self._said_denied = True
            logs.warn(op="events", error=str(error), msg="not allowed to write Events; going on without")

    async def _write(self, series: _Series, seconds: float = 30.0) -> None:
        series.busy = True  # an equal one that comes meanwhile must not become an object of its own
        try:
            await self._post_or_patch(series, seconds)
        finally:
            series.busy = False

    async def _post_or_patch(self, series: _Series, seconds: float) -> None:
        ref = series.ref
        namespace = ref.namespace or "default"  # as for every cluster-scoped object
        count, now = series.count, time.monotonic()
        if series.name:
            await self._api.request(
                "PATCH",
                EVENTS.path(namespace, series.name),
                body={"count": count, "lastTimestamp": series.last},
                content_type="application/merge-patch+json",
                timeout=seconds,
                parse=False,
            )
        else:
            name = f"{ref.name[:200].rstrip('-.')}.{time.time_ns():x}"
            body = self._body(series, namespace, name, count)
            await self._api.request("POST", EVENTS.path(namespace), body=body, timeout=seconds, parse=False)
            series.name = name
        series.sent, series.sent_at = count, now

    def _body(self, series: _Series, namespace: str, name: str, count: int) -> dict[str, Any]:
        ref = series.ref
        involved = {"kind": ref.kind, "apiVersion": ref.api_version, "name": ref.name}
        if ref.namespace:
            involved["namespace"] = ref.namespace
        if ref.uid:
            involved["uid"] = ref.uid
        source = {"component": self._component}
        if self._host:
            source["host"] = self._host
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": involved,
            "type": series.type,
            "reason": series.reason,
            "message": series.message,
            "source": source,
            "firstTimestamp": series.first,
            "lastTimestamp": series.last,
            "count": count,
            "reportingComponent": self._component,
            "reportingInstance": self._host,
        }


def _stamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
