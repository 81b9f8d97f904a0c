"""The announcer put together: what is desired and who is alive in, owned addresses and reports out.

No socket is opened here: the edges are given, or are fakes. `settle` is the end of every turn: elect,
hand to layer 2 what is owned, and only then let the claims go out. What came or went by the thousand goes to layer 2
some groups a turn, in the order in which it happened, and always as it is then.
"""

from __future__ import annotations

import itertools
import math
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from metallb_common.obs import logs
from metallb_common.obs.metrics import Registry
from metallb_speaker import stream
from metallb_speaker.announcer.gate import Gate
from metallb_speaker.announcer.layer2 import api as layer2_api
from metallb_speaker.announcer.layer2.api import Layer2
from metallb_speaker.announcer.membership import events as membership_events
from metallb_speaker.announcer.membership.api import Endpoint, Members
from metallb_speaker.announcer.membership.wire import MAX_MACS
from metallb_speaker.announcer.ownership import events as ownership_events
from metallb_speaker.announcer.ownership.api import Owner
from metallb_speaker.announcer.reach import Reach
from metallb_speaker.announcer.record import Record
from metallb_speaker.desired import BfdTimers, BgpPeer, BgpRoute, Layer2Group, Member

if TYPE_CHECKING:
    from metallb_speaker.announcer.routing import Routing

#: Seconds without a word from the cluster half after which it counts as hung.
CLUSTER_SILENT = 10.0
#: Seconds that a conflict waits before it is told: a member's MAC address may be learnt only after its first frame.
CONFLICT_WAIT = 1.0
#: Rounds of election and layer 2 in one turn: an answer of the wire can change an election.
ROUNDS = 4
#: Groups that layer 2 is told of in one turn: a quarter of a millisecond, logs and reports included.
MOVES = 3

Send = Callable[[bytes, Endpoint], None]


class Announcer:
    """See the module. All verbs take `now`, monotonic seconds."""

    def __init__(
        self,
        node: str,
        reader: stream.DesiredReader,
        layer2: Layer2,
        membership: Members,
        ownership: Owner,
        registry: Registry,
        *,
        send: Send,
        report: Callable[[stream.Report], bool],
    ) -> None:
        self.node, self.reader = node, reader
        self.layer2, self.membership, self.ownership = layer2, membership, ownership
        self._send, self._report = send, report
        announced = registry.gauge(
            "metallb_speaker_announced",
            "Services being announced from this node. "
            "This is desired state, it does not guarantee that the routing protocols have converged.",
            ("service", "protocol", "node", "ip"),
        )
        self.record = Record(node, announced, report)
        self.state: stream.State | None = None  # the cluster half's last word
        self.state_at = -math.inf
        self.problems: dict[str, str] = {}  # what is wrong here, by a short name
        self.dirty = False  # what is desired has changed since `kept`
        self.handed_over = False
        self._leaving = False
        self._why: dict[str, str] = {}  # of the transaction under way
        #: Groups that layer 2 is to be told of -> the reason, should one have gone, and those of its Services.
        self._moves: dict[str, tuple[str, Mapping[str, str]]] = {}
        self._gate = Gate(membership)
        self._reach = Reach()
        self._members_changed = False
        #: BGP and BFD: made by `make_routing` when the first item of theirs comes.
        self.routing: Routing | None = None
        self.make_routing: Callable[[], Routing] | None = None
        self._alive: tuple[bool, tuple[str, ...]] = (True, ())
        self._conflicts: dict[tuple[str, str], tuple[float, layer2_api.Conflict]] = {}  # not told yet -> when to
        self._told: set[tuple[str, str]] = set()  # conflicts that are among the problems: (address, interface)

    # --- the stream ---------------------------------------------------------------------------------

    def on_stream(self, event: stream.Event, now: float) -> None:
        """One event of `DesiredReader`."""
        match event:
            case stream.Hello(version=version):
                logs.info(op="link", msg="the cluster half is connected", version=version)
            case stream.Change():
                self._change(event, now)
            case stream.Complete():
                self._complete(now)
            case stream.State():
                self.state, self.state_at = event, now

    def connected(self) -> None:
        """The cluster half is there (again)."""
        self._report(stream.MembersSeen(*self._alive))
        self.record.connected()

    def _change(self, change: stream.Change, now: float) -> None:
        self.dirty = True
        self._why.update(change.why)
        for item in change.put:
            match item:
                case Layer2Group():
                    self.ownership.upsert(item, now)
                    if item.key in self.ownership.owned():  # perhaps only its Services have changed
                        self._moved(item.key, "notOwner")
                case Member():
                    self._members_changed = True
                case BgpPeer() | BgpRoute() | BfdTimers():
                    if self.routing is None and self.make_routing is not None:
                        self.routing = self.make_routing()
        for kind, key in change.drop:
            if kind == "Layer2Group":
                self.ownership.remove(key, now)
            elif kind == "Member":
                self._members_changed = True
        if self.routing is not None:
            self.routing.change(change.put, change.drop, self._why)

    def _complete(self, now: float) -> None:
        if self._members_changed:
            self._members_changed = False
            seeds = [item for item in self.reader.items.values() if isinstance(item, Member)]
            self.membership.set(seeds, now)
            self.ownership.members({seed.key: seed.addresses for seed in seeds}, now)
        self.ownership.complete(now)
        self.settle(now)  # what this transaction moved is told with its own reasons
        if self.routing is not None:
            self.routing.commit(now)
        self._why = {}

    # --- every turn -----------------------------------------------------------------------------------

    def deadline(self) -> float:
        """Whether the next turn has something left to do of this one."""
        return -math.inf if self._moves else self._reach.deadline()

    def on_deadline(self, now: float) -> None:
        """`settle` does it, at the end of the turn."""

    def settle(self, now: float) -> None:
        """Bring membership, election and layer 2 into line, then send what membership has to say."""
        if self._reach.deadline() <= now:
            self._reach.turn(now, heard=self.membership.hears(now))
            self.membership.set_prefixes(self._reach.told(), now)
        moves = MOVES
        for _ in range(ROUNDS):
            taken = self.ownership.follow(cast("Members", self._gate), now)
            if taken:
                self._membership_events(taken)
            again = self._ownership_events(now)
            if self._moves and moves and not self.layer2.behind():
                again = True
                moves -= self._move(moves, now)
            again |= self._layer2_events(now)
            if not again:
                break
        self._gate.release(self._answered, now)
        if self.routing is not None:
            self.routing.turn(now)
        for data, target in self.membership.pending():
            self._send(data, target)
        if self._conflicts:
            self._tell_conflicts(now)
        if self._told:  # an address that was given up is in conflict with nobody
            for address, interface in self._told - self.layer2.conflicts().keys():
                self._conflict_ended(address, interface)

    def _membership_events(self, taken: list[membership_events.Event]) -> None:
        changed = False
        for event in taken:
            match event:
                case membership_events.Received():
                    continue
                case membership_events.Joined(name=name) | membership_events.Left(name=name):
                    logs.info(op="members", event=_name(event), member=name)
                case membership_events.Failed(name=name) | membership_events.Suspect(name=name):
                    logs.warn(op="members", event=_name(event), member=name)
                case membership_events.Stopped(seconds=seconds):
                    logs.warn(op="members", event="stopped", msg="this process was not running", seconds=seconds)
                case membership_events.Degraded(names=names):
                    message = (
                        f"the membership port does not reach {', '.join(names)}, "
                        "which Kubernetes says are alive: is UDP blocked? Failover is slower meanwhile"
                    )
                    self.problems["membership"] = message
                    logs.warn(op="members", event="degraded", msg=message)
                    self._report(stream.Warned("Node", self.node, "membershipDegraded", message))
                case membership_events.Restored():
                    self.problems.pop("membership", None)
                    logs.info(op="members", event="restored", msg="all members are heard again")
                case _:
                    logs.debug(op="members", event=_name(event), detail=str(event))
            changed = True
        if changed:
            self._members_seen()

    def _members_seen(self) -> None:
        view = self.membership.view()
        told = {mac for standing in view.values() for mac in standing.macs}
        self.layer2.set_members(told.union(self.ownership.neighbours()))
        alive = tuple(sorted(name for name, s in view.items() if s.tier is not membership_events.Tier.SILENT))
        # Who is alive by the cluster's word alone is not heard: all of them, where membership is off.
        by_word = any(s.cluster_only and s.tier is not membership_events.Tier.SILENT for s in view.values())
        working = "membership" not in self.problems and not by_word
        if (working, alive) != self._alive:
            self._alive = working, alive
            self._report(stream.MembersSeen(working, alive))

    def _ownership_events(self, now: float) -> bool:
        """Take down what ownership says; True when the wire was asked."""
        probed = False
        for event in self.ownership.events():
            match event:
                case ownership_events.Acquired(key=key) | ownership_events.Updated(key=key):
                    self._moved(key, "notOwner")
                case ownership_events.Lost(key=key, reason=reason):
                    self._moved(key, reason)
                case ownership_events.Recognised(node=node, macs=found):
                    logs.debug(op="members", event="recognised", member=node, macs=found)
                    self._members_seen()
                case ownership_events.Reassert(key=key):
                    if key in self.ownership.owned():
                        self.layer2.renew(self.ownership.owned()[key].addresses, now)
                case ownership_events.Probe(address=address, wait=wait):
                    self.layer2.probe(address, now, wait)
                    probed = True
                case ownership_events.HandedOver(timed_out=timed_out):
                    self.handed_over = True
                    logs.info(op="shutdown", msg="handed over", untaken=timed_out)
                case ownership_events.Kept(node=node, address=address, mac=mac):
                    message = f"{node} is silent on the membership port but answers for {address} ({mac}): it keeps it"
                    logs.warn(op="members", event="kept", member=node, ip=address, msg=message)
                    self._report(stream.Warned("Node", node, "membershipDegraded", message))
                case ownership_events.KeptEnded(node=node):
                    logs.info(op="members", event="keptEnded", member=node)
                case ownership_events.SplitBrain(key=key, node=node, yielded=yielded):
                    logs.warn(op="election", event="splitBrain", ip=key, member=node, yielded=yielded)
        return probed

    def _moved(self, key: str, reason: str) -> None:
        """Layer 2 is to be told of this group, after those that it is to be told of already."""
        _, why = self._moves.get(key, ("", self._why))
        self._moves[key] = reason, self._why if why is self._why else ChainMap(self._why, why)  # type: ignore[arg-type]

    def _move(self, most: int, now: float) -> int:
        """Tell layer 2 of at most `most` groups, as they are now. Gives how many."""
        owned = self.ownership.owned()
        keys = list(itertools.islice(self._moves, most))
        self.layer2.change({key: owned.get(key) for key in keys}, now)
        for key in keys:
            self._tell(key)
        return len(keys)

    def _tell(self, key: str) -> None:
        """What has become of a group, to the record: to logs, reports and metrics."""
        reason, why = self._moves.pop(key)
        item = self.reader.items.get(("Layer2Group", key))
        group = item if isinstance(item, Layer2Group) else None
        if group is not None and not group.candidates and group.reason:
            reason = group.reason
        addresses = group.addresses if group is not None and key in self.ownership.owned() else ()
        self.record.set("layer2", key, addresses, why, reason)

    def _answered(self, name: str) -> bool | None:
        """Whether layer 2 answers for a group of ours, or soon will on its own account; None: it is not ours.

        `name` is its key, or an address of it.
        """
        key = self.ownership.key_of(name)
        if key not in self.ownership.owned():
            return None
        return key not in self._moves and not self.layer2.behind() and self.layer2.answers(key)

    def _layer2_events(self, now: float) -> bool:
        """Pass on what the wire says; True when ownership may think anew."""
        again = False
        for event in self.layer2.events():
            match event:
                case layer2_api.ProbeResult(address=address, macs=macs):
                    self.ownership.probe_result(address, macs, now)
                    again = True
                case layer2_api.Claimed(address=address, mac=mac):
                    self.ownership.foreign_claim(address, mac, now)
                    again = True
                case layer2_api.InterfacesChanged(interfaces=interfaces):
                    logs.info(op="interfaces", msg="interfaces in use", interfaces=interfaces)
                    self._macs(self.layer2.own_macs(), now)
                    self._reach.set(self.layer2.prefixes(), self.layer2.dark(), now)
                    self.membership.set_prefixes(self._reach.told(), now)
                case layer2_api.Conflict(address=address, interface=interface, mac=mac):
                    # Where members' MAC addresses are not known, it may be the successor that we wait for.
                    self.ownership.foreign_claim(address, mac, now)
                    again = True
                    self._conflicts[address, interface] = (now + CONFLICT_WAIT, event)
                case layer2_api.ConflictGone(address=address, interface=interface):
                    self._conflict_ended(address, interface)
                case layer2_api.Unreachable(key=key):
                    logs.warn(event="noInterface", ip=key, msg="no interface of this node matches the advertisement")
                case layer2_api.IpvsConflict(message=message):
                    logs.error(event="ipvsConflict", msg=message)
                    self._report(stream.Warned("Node", self.node, "ipvsConflict", message))
                case layer2_api.Announcing(address=address, interface=interface):
                    logs.debug(event="announcing", ip=address, interface=interface)
        return again

    def _macs(self, macs: tuple[str, ...], now: float) -> None:
        """Tell the others the MAC addresses that we announce with, as many as they can be told."""
        self.membership.set_macs(macs, now)
        self.problems.pop("macs", None)
        if len(macs) > MAX_MACS:
            self.problems["macs"] = (
                f"this node announces with {len(macs)} MAC addresses, of which the other speakers are told {MAX_MACS}: "
                "by the rest they do not recognise it, should the membership port be blocked"
            )

    def _tell_conflicts(self, now: float) -> None:
        """Tell those that still last when their time has come."""
        last = self.layer2.conflicts()
        for where, (due, conflict) in list(self._conflicts.items()):
            if where not in last:
                del self._conflicts[where]
            elif due <= now:
                del self._conflicts[where]
                self._conflict(conflict)

    def _conflict_ended(self, address: str, interface: str) -> None:
        self._conflicts.pop((address, interface), None)
        if (address, interface) in self._told:
            self._told.discard((address, interface))
            self.problems.pop(f"conflict {address} {interface}", None)
            logs.info(event="addressConflictEnded", ip=address, interface=interface)

    def _conflict(self, conflict: layer2_api.Conflict) -> None:
        message = (
            f"another host ({conflict.mac} on {conflict.interface}) uses {conflict.address}"
            + (": not announced there until it stops" if conflict.withheld else ": defended")
            + "; exclude-addresses keeps the pool from giving the address out"
        )
        self._told.add((conflict.address, conflict.interface))
        self.problems[f"conflict {conflict.address} {conflict.interface}"] = message
        logs.error(event="addressConflict", ip=conflict.address, interface=conflict.interface, msg=message)
        for service in self.record.services_at(conflict.address):
            self._report(stream.Warned("Service", service, "addressConflict", message))

    # --- the end ----------------------------------------------------------------------------------------

    def leave(self, now: float) -> None:
        """Hand over in order; `left` tells when that is done."""
        if not self._leaving:
            self._leaving = True
            self.ownership.leave(now)
            self.membership.leave(now)
            if self.routing is not None:
                self.routing.leave(now)
            self.settle(now)

    @property
    def left(self) -> bool:
        """After `leave`: addresses are handed over, and every BGP peer was told."""
        return self.handed_over and not self._moves and (self.routing is None or self.routing.left)

    def depart(self, now: float) -> None:
        """Fall silent, and say so: the last thing before the end."""
        self.settle(now)
        self.layer2.set({}, now)
        self.membership.depart(now)
        for data, target in self.membership.pending():
            self._send(data, target)
        for key in [key for key in self._moves if key not in self.ownership.owned()]:
            self._tell(key)
        if self.routing is not None:
            self.routing.edge.close()

    # --- what others ask ------------------------------------------------------------------------------

    def cluster_alive(self, now: float) -> bool:
        return now - self.state_at <= CLUSTER_SILENT

    def unready(self, now: float) -> list[str]:
        """Why this speaker is not ready; [] when it is."""
        out = []
        if self.state is None or not self.cluster_alive(now):
            out.append("the cluster half is not heard")
        elif not self.state.synced:
            out.append("the cluster half has not seen every list yet")
        if not self.membership.ready:
            out.append("the membership has not joined yet")
        if self._leaving:
            out.append("leaving")
        return out


def _name(event: object) -> str:
    name = type(event).__name__
    return name[0].lower() + name[1:]
