"""The controller's memory: every Service of interest, its allocation, and what is still to be done.

It turns changes (Services, config, namespaces) into plans, commits them to the allocator, and hands
what must be written to a callback. It never waits and does no IO.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from metallb_common.config.model import Config
from metallb_common.kube.events import ObjectRef
from metallb_common.kube.views import Service
from metallb_common.net.ranges import Address
from metallb_common.obs import logs
from metallb_controller.agenda import Agenda, seniority
from metallb_controller.allocator import Allocator, Conflict, quoted
from metallb_controller.handover import Handovers, circle
from metallb_controller.plan import (
    Plan,
    Say,
    adopt,
    current,
    may_share,
    needs_write,
    plan,
    status_addresses,
    without,
)
from metallb_controller.sharing import Allocation
from metallb_controller.tracked import Tracked, newer
from metallb_controller.wishes import FROM_POOL, Rules, parse_address


class Outside(Protocol):
    """What the assigner needs done."""

    def submit(self, key: str) -> None:
        """Service `key` differs from its plan: write it."""

    def tell(self, view: Service, say: Say) -> None:
        """Send an event about a Service."""

    def freed(self) -> None:
        """An address became free."""

    def accepted(self, config: Config) -> None:
        """A config is in force from now on."""

    def stirred(self) -> None:
        """There is something to reconcile."""

    def counted(self, *, error: bool = False) -> None:
        """One object update was processed, or failed."""


def reference(view: Service) -> ObjectRef:
    return ObjectRef("Service", view.name, view.namespace, view.uid)


class Assigner:
    """Mutable; one event loop. Also the sink of the Services' list and watch."""

    def __init__(self, rules: Rules, outside: Outside) -> None:
        self.services: dict[str, Tracked] = {}
        self.allocator = Allocator()
        self.config: Config | None = None
        self.synced = False
        self.paused = False  # something that decisions need is still being fetched
        self.provisional = False  # there may be a better config than the one in force: nothing is decided by it yet
        self.waiting: dict[str, object] = {}
        self.namespaces: dict[str, Mapping[str, str]] | None = None
        self._rules, self._outside = rules, outside
        self._handovers = Handovers()
        self._agenda = Agenda()
        self._wake = False  # something was freed that somebody waits for
        self._failed: set[object] = set()  # signatures of wishes that were refused since

    # --- what comes in ----------------------------------------------------------------------------

    def replace(self, objects: list[Tracked]) -> None:
        there = {obj.view.key for obj in objects}
        for key in [k for k in self.services if k not in there]:
            self._gone(key)
        for obj in objects:
            self._outside.counted()
            self._store(obj)
        first, self.synced = not self.synced, True
        if first:
            logs.info(event="stateSynced", msg="every Service is known; allocating")
            if self.config is not None:
                self._adopt_all()
        self._outside.stirred()

    def parse(self, obj: Mapping[str, Any]) -> Tracked:
        """From the API's JSON. Of a write's answer and its echo by the watch the second costs next to nothing."""
        meta = obj["metadata"]
        known = self.services.get(f"{meta['namespace']}/{meta['name']}")
        if known is not None and known.view.resource_version == meta["resourceVersion"]:
            return known
        return Tracked.from_json(obj)

    def upsert(self, obj: Tracked) -> None:
        self._outside.counted()
        if obj is self.services.get(obj.view.key):
            return
        self._store(obj)
        self._outside.stirred()

    def delete(self, obj: Tracked) -> None:
        self._outside.counted()
        self._gone(obj.view.key)
        self._outside.stirred()

    def written(self, obj: Tracked) -> None:
        """The server's answer to a write: newer than what the watch has brought so far."""
        known = self.services.get(obj.view.key)
        if known is not None and known is not obj and known.view.uid == obj.view.uid:
            self._store(obj)
            self._outside.stirred()

    def _store(self, obj: Tracked) -> None:
        key = obj.view.key
        known = self.services.get(key)
        if known is None:
            if obj.view.type != "LoadBalancer" and not obj.kept:
                return  # never ours: most Services of a cluster
        elif known.view.uid != obj.view.uid:
            self._gone(key)  # deleted and made anew while nobody looked
        elif not newer(known.view.resource_version, obj.view.resource_version):
            return
        else:
            obj.succeed(known)
        self.services[key] = obj
        self._agenda.change(obj.view)
        held = self.allocator.held.get(key)
        if held is not None and obj.view.type != "LoadBalancer":
            self._release(key)
        elif held is not None:
            self._hold(key, current(obj.view, self.allocator, held))
        self._linger(key)

    def _gone(self, key: str) -> None:
        known = self.services.pop(key, None)
        self._agenda.drop(key)
        self.waiting.pop(key, None)
        if known is not None and self._release(key):
            logs.info(event="serviceDeleted", service=key, msg="address released")
        self._handovers.proceed(key)
        self._linger(key)

    def accept(self, config: Config, *, provisional: bool = False) -> None:
        """Take a config. Services that it does not cover lose their address (see `conflicts`).

        A provisional one says who holds what, for another to be judged by; it gives and takes nothing.
        """
        if self.provisional:
            self.allocator = Allocator()  # what the statuses say is read anew: more of it may be covered now
        self.config, self.provisional = config, provisional
        self._outside.accepted(config)
        before = dict(self.allocator.held)
        lost = self.allocator.set_pools(config.pools)
        if lost:
            logs.warn(op="setConfig", msg="addresses are given anew", services=len(lost))
        for key in filter(self.services.__contains__, lost):
            self.services[key].lapsed = before[key].addresses
        if self.synced:
            self._adopt_all()
        self._mark_all()

    def confirm(self) -> None:
        """The config in force stays: decide by it."""
        if self.provisional:
            self.provisional = False
            self._outside.stirred()

    def conflicts(self, config: Config) -> list[Conflict]:
        return self.allocator.conflicts(config.pools)

    def set_namespaces(self, labels: Mapping[str, Mapping[str, str]]) -> None:
        """New labels of namespaces: only who waits can be better off."""
        before = self.namespaces or {}
        self.namespaces = dict(labels)
        for key in self.waiting:
            tracked = self.services.get(key)
            if tracked and before.get(tracked.view.namespace) != labels.get(tracked.view.namespace):
                self._agenda.change(tracked.view)
        self._outside.stirred()

    def _mark_all(self) -> None:
        self._agenda.change_all(tracked.view for tracked in self.services.values())
        self._outside.stirred()

    # --- adoption ---------------------------------------------------------------------------------

    def _adopt_all(self) -> None:
        """Before anything new is given: every status says who holds what. The oldest comes first.

        What another implementation serves comes after ours: its status takes nothing from us at other times, either.
        """
        for tracked in sorted(self.services.values(), key=lambda t: (not self._ours(t.view), *seniority(t.view))):
            if tracked.view.key not in self.allocator.held:
                self._adopt(tracked, at_start=True)
        for key in self.services:
            self._linger(key)
        self._mark_all()

    def _ours(self, view: Service) -> bool:
        """Whether we serve it, or have given it what it has."""
        return self._rules.serve(view) or FROM_POOL in view.annotations

    def _adopt(self, tracked: Tracked, *, at_start: bool) -> None:
        view = tracked.view
        found = adopt(view, self.allocator, at_start=at_start)
        if found.lost and found.lost != tracked.lost:
            what = (
                "is taken back"
                if self._ours(view)
                else "has another owner, and somebody else than this controller gave it"
            )
            self._outside.tell(view, Say("Warning", "DuplicateAddress", f"{quoted(found.lost)} {what}: {found.why}"))
            logs.error(op="adopt", service=view.key, error=found.why, ips=list(map(str, found.lost)), msg=what)
        tracked.lost = found.lost
        if found.hold is not None:
            self.allocator.hold(view.key, found.hold)

    # --- reconciling ------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return (bool(self._agenda) or self._wake) and not (self.paused or self.provisional)

    def reconcile(self, limit: int) -> None:
        """Plan and commit at most `limit` Services; nothing before config and list are there.

        The oldest first, so that the order of events that come together decides nothing. Of who is only
        woken, those are passed over that ask for the same as one who got nothing.
        """
        if self.config is None or not self.synced:
            self._agenda.change_all(())  # everything is marked again when both are there
            return
        for _ in range(limit):
            if self._wake:
                self._wake_waiting()
            if (due := self._agenda.pop()) is None:
                break
            key, changed = due
            signature = self.waiting.get(key)
            if changed or signature is None or signature not in self._failed:
                self._one(key)
                if (refused := self.waiting.get(key)) is not None:
                    self._failed.add(refused)

    def _wake_waiting(self) -> None:
        self._wake = False
        self._failed.clear()
        for key in self.waiting.keys() - self._agenda.keys:
            self._agenda.wake(self.services[key].view)

    def _one(self, key: str) -> None:
        tracked = self.services.get(key)
        if tracked is None:
            return
        try:
            self._withdraw(tracked)
            tried = key not in self.allocator.held and bool(tracked.view.ingress_ips)
            if tried:
                self._adopt(tracked, at_start=False)
            labels = None if self.namespaces is None else self.namespaces.get(tracked.view.namespace)
            decided = plan(tracked.view, self.allocator, self._rules, labels, lapsed=tracked.lapsed)
        except Exception as error:  # a defect met by one Service must not stop the others
            self._outside.counted(error=True)
            logs.error(op="plan", service=key, error=repr(error), msg="left as it is")
            tracked.decided = None
        else:
            self._commit(tracked, decided, tried=tried)
        self._linger(key)
        if self._handovers.of(key) and not self._leaving(key):
            self._submit_all(self._handovers.nudge(key))

    def _commit(self, tracked: Tracked, decided: Plan, *, tried: bool) -> None:
        """`tried`: what it holds by its status was its own only for this plan; giving it up frees nothing."""
        view, key = tracked.view, tracked.view.key
        if decided.hold is None:
            self._release(key, freed=not tried)
        else:
            self._hold(key, decided.hold)
        if decided.waiting:
            self.waiting[key] = decided.signature
        else:
            self.waiting.pop(key, None)
        for say in decided.problems:
            if say not in tracked.said:
                self._outside.tell(view, say)
                logs.warn(op="allocateIPs", service=key, reason=say.reason, error=say.message)
        tracked.said = decided.problems
        tracked.decided = decided
        if needs_write(view, decided):
            self._outside.submit(key)
            return
        tracked.done()
        if view.type != "LoadBalancer" and not tracked.on_server():
            self.services.pop(key, None)  # nothing of ours is left on it

    def _hold(self, key: str, new: Allocation) -> None:
        held = self.allocator.held.get(key)
        if new == held:
            return
        neighbours = {n for a in new.addresses for n in self.allocator.holders(a)}
        self.allocator.hold(key, new)
        if held is not None and not set(held.addresses) <= set(new.addresses):
            self._freed()
        if new.keys[0] or (held is not None and held.keys[0]):
            self._wake = bool(self.waiting) or self._wake  # new chances to share
        if held is not None and (held.keys, held.wanted, held.either) != (new.keys, new.wanted, new.either):
            for other in neighbours - {key}:
                if other in self.services:
                    self._agenda.change(self.services[other].view)

    def _release(self, key: str, *, freed: bool = True) -> bool:
        held = self.allocator.held.get(key)
        if held is None:
            return False
        self.allocator.release(key)
        if key in self.services:
            self.services[key].lapsed = held.addresses
        if freed:
            self._freed()
        return True

    def _freed(self) -> None:
        self._wake = bool(self.waiting) or self._wake
        self._outside.freed()

    # --- what goes out ----------------------------------------------------------------------------

    def work(self, key: str) -> tuple[Tracked, Plan] | None:
        """What is to be written for this Service now, if anything.

        An address is added only when the server shows it on no other Service that may not share it.
        Whoever is held back is submitted again when that has changed.
        """
        self._handovers.proceed(key)
        tracked = self.services.get(key)
        if tracked is None or tracked.decided is None or not needs_write(tracked.view, tracked.decided):
            return None
        if self._agenda.changed(key):
            return None  # decided for an older version: it is decided anew, and submitted then
        added = self._added(tracked)
        if not added:
            return tracked, tracked.decided
        held = self.allocator.held.get(key)
        if held is None or any(a not in held.addresses or self.allocator.contested(key, a) for a in added):
            self._agenda.change(tracked.view)  # decided before what is known by now
            self._outside.stirred()
            return None
        blockers = self._blockers(key)
        if not blockers:
            return tracked, tracked.decided
        for address, _, _ in blockers:
            self._handovers.wait(key, address)
        ring = self._ring(key)
        if not ring:
            return None
        # Everybody in it waits for the next: the youngest goes without an address for a moment.
        gives_way = max(ring, key=lambda k: seniority(self.services[k].view))
        if gives_way != key:
            self._outside.submit(gives_way)
            return None
        return tracked, without(tracked.view, tracked.decided, held)

    def _ring(self, key: str) -> tuple[str, ...]:
        """Services that wait for each other, this one among them.

        Only who was found to wait is followed: the last of a ring to be looked at finds all the others so.
        """
        if not self._handovers.awaited(key):
            return ()

        def waits_for(one: str) -> Iterable[str]:
            for _, other, shown in self._blockers(one):
                if shown and (other == key or self._handovers.held_back(other)):
                    yield other

        return circle(key, waits_for)

    @staticmethod
    def _added(tracked: Tracked) -> tuple[Address, ...]:
        """What its plan adds to what the server shows."""
        if tracked.decided is None:
            return ()
        there = status_addresses(tracked.view)
        wanted = map(parse_address, tracked.decided.ingress or ())
        return tuple(a for a in wanted if a is not None and a not in there)

    def _blockers(self, key: str) -> list[tuple[Address, str, bool]]:
        """What this Service's write waits for: an address, who is to leave it, and whether it is seen there."""
        tracked = self.services[key]
        out = []
        for address in self._added(tracked):
            for other in sorted(self._handovers.on(address)):
                if other == key or not self._leaving(other):
                    continue
                theirs = self.services[other]
                if not may_share(tracked.view, theirs.view):
                    out.append((address, other, address in status_addresses(theirs.view)))
        return out

    def _leaving(self, key: str) -> bool:
        """Whether what this Service lingers on will be gone: by a write, a plan, or a look."""
        tracked = self.services[key]
        return bool(tracked.decided or self._agenda.changed(key) or tracked.flying or tracked.unknown)

    def begins(self, key: str, decided: Plan) -> None:
        """A write of `decided` is under way."""
        tracked = self.services.get(key)
        if tracked is not None:
            there = status_addresses(tracked.view)
            wanted = map(parse_address, decided.ingress or ())
            tracked.flying = tuple(a for a in wanted if a is not None and a not in there)
            self._linger(key)

    def ended(self, key: str, *, happened: bool | None) -> None:
        """The write has ended; `happened` is None when nobody knows. A new version may have come before."""
        tracked = self.services.get(key)
        if tracked is None:
            return
        if happened is None:
            tracked.unknown = tuple(dict.fromkeys((*tracked.unknown, *tracked.flying)))
        elif happened:
            tracked.announced = ()  # the watch may have been faster, and somebody else faster than we
        tracked.flying = ()
        self._linger(key)

    def doubtful(self, key: str) -> bool:
        """Whether a write may have happened of which nobody knows."""
        tracked = self.services.get(key)
        return tracked is not None and bool(tracked.unknown)

    def seen(self, obj: Tracked) -> None:
        """The object as it is after every write of ours that is still in doubt has ended."""
        known = self.services.get(obj.view.key)
        if known is not None and known.view.uid == obj.view.uid:
            known.unknown = ()
            self._linger(obj.view.key)
        self.written(obj)

    def _linger(self, key: str) -> None:
        if self.config is None or not self.synced:
            return  # done for all at once when both are there
        tracked = self.services.get(key)
        left: tuple[Address, ...] = ()
        if tracked is not None and (tracked.view.ingress_ips or tracked.flying or tracked.unknown):
            held = self.allocator.held.get(key)
            mine = held.addresses if held is not None else ()
            left = tuple(dict.fromkeys(a for a in tracked.on_server() if a not in mine))
        self._submit_all(self._handovers.put(key, left))

    def _submit_all(self, keys: Iterable[str]) -> None:
        for key in sorted(keys):
            self._outside.submit(key)

    def _withdraw(self, tracked: Tracked) -> None:
        """An address that was decided on, and not written, is no right: not when the objects say otherwise by now."""
        key = tracked.view.key
        held = self.allocator.held.get(key)
        if held is None or tracked.decided is None:
            return
        there = (*status_addresses(tracked.view), *tracked.flying)
        pairs = zip(held.addresses, held.pools, strict=True)
        stays = [(a, p) for a, p in pairs if a in there or not self.allocator.contested(key, a)]
        if len(stays) == len(held.addresses):
            return
        if not stays:
            self._release(key)
            return
        addresses, pools = zip(*stays, strict=True)
        self._hold(key, dataclasses.replace(held, addresses=addresses, pools=pools))

    def pending(self) -> Iterable[tuple[str, str]]:
        """Services that wait for something, with the reason."""
        for key in sorted(self.waiting):
            tracked = self.services.get(key)
            if tracked is not None:
                yield key, "; ".join(say.message for say in tracked.said) or "one family of two"

    def summary(self) -> dict[str, Any]:
        return {
            "services": len(self.services),
            "allocated": len(self.allocator.held),
            "waiting": len(self.waiting),
            "handovers": self._handovers.waiting,
        }
