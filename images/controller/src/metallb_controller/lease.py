"""Who leads: one coordination.k8s.io/v1 Lease, held for as long as this process writes.

Timing, in seconds: the Lease lasts DURATION; the holder renews it every RENEW and stops writing when the
last success is DEADLINE ago. DEADLINE + WRITE_TIMEOUT < DURATION, so the last write of a holder that
cannot renew is over before another takes the Lease. A candidate counts DURATION from the moment it sees
a renewal, by its own clock: nobody's wall clock matters. A killed leader is replaced DURATION after its
last renewal, at most POLL later. A Lease that somebody deletes is made again by who holds it, at its next
renewal; a candidate counts from the moment it sees that the Lease is gone. A holder that was cut off, and
finds that another has held the Lease meanwhile, has lost it, also if it is free again: it takes it for a new
term.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from metallb_common.kube.client import Api, in_pod
from metallb_common.kube.errors import ApiError, Backoff
from metallb_common.kube.resources import LEASES
from metallb_common.obs import logs

DURATION = 3  # whole seconds: the API's type
RENEW = 0.8
DEADLINE = 1.7
REQUEST = 0.8  # timeout of one request
POLL = 0.4


def identity() -> str:
    """This process among all that may want the Lease.

    In a pod the pod's name: a container that was restarted is the same holder, and its predecessor is
    dead for certain. Elsewhere the process, so that a successor on the same host can see it is dead.
    """
    host = socket.gethostname()
    if in_pod():
        return host
    return f"{host}_{_namespace()}_{os.getpid()}_{_started(os.getpid())}"


def _namespace() -> str:
    """This boot and this process namespace: process ids compare only within both."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read(8)
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return "unknown"


def _started(pid: int) -> str:
    """The start time of a process in clock ticks since boot; empty when there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def surely_dead(holder: str, me: str) -> bool:
    """Whether the holder was a process of this host that is gone."""
    theirs, mine = holder.split("_"), me.split("_")
    if len(theirs) != 4 or len(mine) != 4 or theirs[:2] != mine[:2] or mine[1] == "unknown":
        return False
    return theirs[2].isdigit() and _started(int(theirs[2])) != theirs[3]


def _transitions(spec: dict[str, Any]) -> int:
    return int(spec.get("leaseTransitions") or 0)


@dataclass(slots=True)
class _Seen:
    """The Lease as it was last seen to change, by our own clock."""

    version: str
    at: float


class Lease:
    """`run` keeps trying; `led` tells who leads now."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        me: str = "",
        owner: Callable[[], Awaitable[dict[str, str] | None]] | None = None,
    ) -> None:
        """`owner` gives the owner reference for a Lease that is made here, so that it goes away with its Deployment."""
        self._api, self._namespace, self._name = api, namespace, name
        self._owner = owner
        self.me = me or identity()
        self.holder = ""
        self.without = False  # no access to Leases: lead alone
        self._object: dict[str, Any] = {}
        self._renewed = float("-inf")
        self._seen: _Seen | None = None
        self._owned = False  # whether the Lease goes away with its Deployment
        self._access = False  # whether the server has ever let us read or write it
        self._told = False
        self.held = False
        self.transitions = 0

    def valid(self) -> bool:
        """Whether a write may start now."""
        if self.without:
            return self.held
        return self.held and asyncio.get_running_loop().time() - self._renewed < DEADLINE

    async def run(self, acquired: Callable[[], None], lost: Callable[[], None]) -> None:
        """Take and keep the Lease for ever. `acquired` and `lost` alternate; neither may wait."""
        backoff = Backoff(0.2, 2.0)
        while True:
            try:
                holds = await self._step()
                backoff.reset()
                self._told = False
            except ApiError as error:
                if self._denied(error, acquired):
                    return
                await asyncio.sleep(min(backoff.next(error.retry_after), 2.0))
                continue
            if holds and not self.held:
                self.held = True
                logs.info(op="lease", msg="leading", holder=self.me)
                acquired()
            elif not holds and self.held:
                self.held = False
                logs.warn(op="lease", msg="no longer leading", holder=self.holder)
                lost()
            await asyncio.sleep(RENEW if holds else POLL * (0.75 + random.random() / 2))  # noqa: S311

    def _denied(self, error: ApiError, acquired: Callable[[], None]) -> bool:
        """Whether there is no access to Leases. A right that is withdrawn is another case: others may lead by them."""
        if not (error.denied or error.status == 404):
            return False
        if self._access:
            if not self._told:
                self._told = True
                text = "no access to the Lease any more: nothing is written until it is back"
                logs.error(op="lease", error=str(error), msg=text)
            return False
        logs.warn(
            op="lease",
            error=str(error),
            msg="no access to Leases: leading without one; run a single replica, or grant get, create and update",
        )
        self.without = self.held = True
        self.holder = self.me
        acquired()
        return True

    async def _step(self) -> bool:
        """One round: renew, take, or look. Returns whether the Lease is ours. Raises ApiError."""
        loop = asyncio.get_running_loop()
        path = LEASES.path(self._namespace, self._name)
        if not (self.held and self._object) and not await self._look(path):
            return await self._gone()
        spec = self._object.get("spec") or {}
        self.holder = spec.get("holderIdentity") or ""
        if self.held and not self._same_term(spec):
            return False
        if self.holder != self.me and not self._free(spec, loop.time()):
            return False
        start = loop.time()
        try:
            self._took(await self._api.request("PUT", path, body=self._mine(spec), timeout=REQUEST), start)
        except ApiError as error:
            self._object = {}
            if error.status not in (404, 409):
                raise
            if not await self._look(path):
                return await self._gone()
            # An unanswered renewal that did land is no loss.
            spec = self._object.get("spec") or {}
            self.holder = spec.get("holderIdentity") or ""
            return self.held and self._same_term(spec)
        return True

    def _same_term(self, spec: dict[str, Any]) -> bool:
        """Whether nobody else has held the Lease since we took it: also one that is gone again may have written."""
        return spec.get("holderIdentity") == self.me and _transitions(spec) == self.transitions

    async def _look(self, path: str) -> bool:
        """Read the Lease; whether there is one. Raises ApiError."""
        self._object = {}
        try:
            self._object = await self._api.request("GET", path, timeout=REQUEST)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        self._access = True
        self._owned = bool((self._object.get("metadata") or {}).get("ownerReferences"))
        return True

    def _took(self, lease: dict[str, Any], start: float) -> None:
        """The server says that the Lease is ours, by a request that began at `start`."""
        self._object, self.holder, self._renewed = lease, self.me, start
        self.transitions = _transitions(lease.get("spec") or {})
        self._seen, self._access = None, True

    async def _gone(self) -> bool:
        """There is no Lease. Who leads makes it again at once; who has seen another lead waits until that is over."""
        leads = self.valid()
        if not leads and not self._free({}, asyncio.get_running_loop().time()):
            return False
        owner = await self._owner() if self._owner else None
        if leads and self._owned and owner is None:
            return False  # uninstalled with its owner: one made now would stay behind
        return await self._create(owner)

    def _free(self, spec: dict[str, Any], now: float) -> bool:
        if not self.holder or surely_dead(self.holder, self.me):
            return True
        version = (self._object.get("metadata") or {}).get("resourceVersion", "")
        if self._seen is None or self._seen.version != version:
            self._seen = _Seen(version, now)
        return now - self._seen.at > float(spec.get("leaseDurationSeconds") or DURATION)

    async def _create(self, owner: dict[str, str] | None) -> bool:
        start = asyncio.get_running_loop().time()
        # Made again in the same term it keeps its count, so that a POST that was not answered is known as ours.
        body = self._mine({"holderIdentity": self.me, "leaseTransitions": self.transitions} if self.held else {})
        body["metadata"] = {"name": self._name, "namespace": self._namespace}
        if owner:
            body["metadata"]["ownerReferences"] = [owner]
        try:
            made = await self._api.request("POST", LEASES.path(self._namespace), body=body, timeout=REQUEST)
        except ApiError as error:
            if error.status == 409:
                return False
            raise
        self._took(made, start)
        self._owned = bool(owner)
        return True

    def _mine(self, spec: dict[str, Any]) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        same = spec.get("holderIdentity") == self.me
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": self._object.get("metadata") or {},
            "spec": {
                **spec,
                "holderIdentity": self.me,
                "leaseDurationSeconds": DURATION,
                "acquireTime": (spec.get("acquireTime") if same else "") or now,
                "renewTime": now,
                "leaseTransitions": _transitions(spec) + (not same and bool(spec)),
            },
        }

    async def release(self) -> None:
        """Hand over at once. Call it when nothing is being written any more."""
        if not self.held or self.without or not self._object:
            return
        self.held = False
        spec = {**(self._object.get("spec") or {}), "holderIdentity": "", "leaseDurationSeconds": 1}
        body = {**self._object, "spec": spec}
        try:
            await self._api.request("PUT", LEASES.path(self._namespace, self._name), body=body, timeout=REQUEST)
        except ApiError as error:
            logs.warn(op="lease", error=str(error), msg="not released; it will run out")
