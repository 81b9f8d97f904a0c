"""Layer 2 as one sans-IO machine: responder, announcements, duplicate check and interface choice put together.

Inputs: `set` (what this node owns), `links` (a netlink snapshot), `receive` (a frame), `on_deadline`.
Outputs: `pending` (frames to send), `take_changed` (interfaces whose kernel filter and multicast groups are to
be renewed from `addresses` before `pending` is sent), `events`, and the read-only views of `api.Layer2`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from metallb_speaker.announcer.layer2 import api, arp, ndp
from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2.duplicate import ANSWERING, GRACE, Duplicates, State, Step
from metallb_speaker.announcer.layer2.gratuitous import Gratuitous
from metallb_speaker.announcer.layer2.interfaces import IN_USE, Link, Snapshot, packed, text
from metallb_speaker.announcer.layer2.picture import Picture
from metallb_speaker.announcer.layer2.responder import Heard, Port
from metallb_speaker.announcer.layer2.timers import Timers
from metallb_speaker.announcer.lazy import Lazy

#: Keys announced or probed in one `on_deadline`: a quarter of a millisecond, so that BFD is not kept waiting.
BURST: Final = 16
#: Addresses taken into use in one `on_deadline`, at most: each costs system calls for its filter and group.
OWN_BURST: Final = 8
#: Groups whose interfaces are found anew in one `on_deadline`: a quarter of a millisecond.
PLACED: Final = 64

#: Bounds on what a stranger on the LAN can make us remember or tell, by forging frames as fast as the wire takes them:
#: MAC addresses in one answer to `probe`, and seconds between two `Claimed` for one address.
MACS: Final = 8
CLAIM_INTERVAL: Final = 0.2

#: After a cable came back, or an interface was up again, before anything is announced on it: the other speakers, who
#: may have replaced us meanwhile, are heard within that time. One frame of ours in their hosts' caches would be an
#: outage until their next.
PLUGGED: Final = 0.25

_CONFLICT: Final = (State.DEFENDING, State.WITHHELD)

Key = tuple[int, bytes]  # interface index, address (4 or 16 octets)
Changes = dict[Key, None]  # a set that keeps the order


@dataclass(slots=True)
class _Interface:
    link: Link
    port: Port


@dataclass(slots=True)
class _Probe:
    macs: set[bytes]
    ports: list[int]


class Layer2Machine:
    """See `api.Layer2` for the verbs; this is all of it but the sockets."""

    def __init__(self, grace: float = GRACE) -> None:
        self._groups: dict[str, api.OwnedGroup] = {}
        self._keys: dict[str, tuple[Key, ...]] = {}  # group -> what it needs
        self._holders: dict[Key, int] = {}  # how many groups need it
        self._ips: dict[bytes, int] = {}  # on how many interfaces each is needed
        self._interfaces: dict[int, _Interface] = {}
        self._picture = Picture()
        self._plugged: dict[int, float] = {}  # interface that is in use again -> when to announce on it
        self._members: frozenset[bytes] = frozenset()
        self._gratuitous: Gratuitous[Key] = Gratuitous()
        self._duplicates: Duplicates[Key] = Duplicates(grace)
        self._probes: dict[bytes, _Probe] = {}
        self._probe_timers: Timers[bytes] = Timers()
        self._unreachable: set[str] = set()
        self._claimed: dict[Key, float] = {}  # when last told
        self._sent: dict[bytes, int] = {}  # gratuitous frames by address
        self._pending: list[tuple[int, bytes]] = []
        self._changed: Changes = {}
        self._unplaced: dict[str, api.OwnedGroup] = {}  # groups whose interfaces are to be found anew
        self._queue: dict[Key, bool] = {}  # to be taken into use -> with a check first
        self.burst = OWN_BURST  # the edge, which knows what it costs, may lower it
        self._events: list[api.Event] = []
        self._now = 0.0

    # --- what comes in ---------------------------------------------------------------------------

    def set(self, groups: Mapping[str, api.OwnedGroup], now: float) -> None:
        """The whole set of groups; an address that stays is left alone."""
        self._now = now
        for key, group in groups.items():
            known = self._groups.get(key)
            if known is group or known == group:
                continue
            self._groups[key] = group
            self._place(group, now)
        # Last, so that an address that moves from one group to another is never silent.
        for key in [key for key in self._groups if key not in groups]:
            self._give_up(key, now)

    def change(self, groups: Mapping[str, api.OwnedGroup | None], now: float) -> None:
        """These groups only; None for one that is not owned any more."""
        self._now = now
        for key, group in groups.items():
            if group is not None and self._groups.get(key) != group:
                self._groups[key] = group
                self._place(group, now)
        for key, group in groups.items():  # last, as in `set`
            if group is None and key in self._groups:
                self._give_up(key, now)

    def renew(self, addresses: Iterable[str], now: float) -> None:
        """Announce anew, from the beginning, what is announced of `addresses`."""
        self._now = now
        self._renew([(index, ip) for ip in map(packed, addresses) for index in self._interfaces], now)

    def reopened(self, index: int, now: float) -> None:
        """What was announced on this interface did not leave: its sockets could not be opened until now."""
        self._now = now
        self._renew([key for key in self._holders if key[0] == index], now)

    def set_members(self, macs: Iterable[str]) -> None:
        members = frozenset(eth.mac_bytes(mac) for mac in macs)
        if members != self._members:
            self._members = members
            for step in self._duplicates.members(members, self._now):
                self._follow(step, self._now)

    def links(self, snapshot: Snapshot, now: float) -> None:
        """The interfaces as they are now."""
        self._now = now
        if snapshot == self._picture.snapshot:
            return
        before, self._picture = self._picture, Picture(snapshot)
        links, reasons = self._picture.links, self._picture.reasons
        self._plugged = {i: when for i, when in self._plugged.items() if when > now}
        for i, why in before.reasons.items():
            if why not in IN_USE and reasons.get(i) in IN_USE:
                self._plugged[i] = now + PLUGGED
        dropped = False
        for index in {*self._interfaces, *(key[0] for key in self._queue)}:
            link, interface = links.get(index), self._interfaces.get(index)
            changed = interface is not None and link is not None and link.mac != interface.link.mac
            if link is None or changed or reasons[index] not in IN_USE:
                self._drop_interface(index)
                dropped = True
        # Pods' interfaces come and go all the time, and matter to no group.
        moved = {patterns for patterns, indexes in before.matching.items() if self._match(*patterns) != indexes}
        if moved or dropped or not before.matching or not before.used():
            self._unplaced.update(self._groups)
            self._place_some(now)
        for index, interface in self._interfaces.items():
            link = links[index]
            was = before.links.get(index)
            interface.link = link
            if was is not None and link.carrier and not was.carrier:
                # The cable came back, perhaps into another switch: tell it, and those behind it, where we are.
                self._renew([key for key in self._holders if key[0] == index], now + PLUGGED)
        if self._picture.told() != before.told():
            self._events.append(api.InterfacesChanged(self.used()))

    def at(self, now: float) -> None:
        """The time of what is fed to ports directly (`ports`), past `receive`: the edge's short cut."""
        self._now = now

    @property
    def behind(self) -> bool:
        """Some addresses wait to be taken into use."""
        return bool(self._queue or self._unplaced)

    def where(self, group: str) -> frozenset[int]:
        """The indexes of the interfaces at which `group` is answered for, or soon will be."""
        return frozenset(index for index, _ in self._keys.get(group, ()))

    @property
    def busy(self) -> bool:
        """Something is to be sent, or a filter to be renewed."""
        return bool(self._pending or self._changed)

    def receive(self, frame: bytes, interface: int, now: float) -> None:
        """One frame that came in through `interface` (its index); the answer, if any, is in `pending`."""
        self._now = now
        known = self._interfaces.get(interface)
        if known is not None and (answer := known.port.answer(frame)) is not None:
            self._pending.append((interface, answer))

    def probe(self, address: str, now: float, wait: float = 0.05) -> None:
        """Ask on every used interface; see `api.Layer2.probe`."""
        ip = packed(address)
        indexes = self._match((), ())
        self._probes[ip] = _Probe(set(), list(indexes))
        self._probe_timers.set(ip, now + wait)
        for index in indexes:
            interface = self._interface(index)
            interface.port.add(ip, address)
            self._changed[index, ip] = None
            self._pending.append((index, self._probe_frame(interface, ip)))

    # --- time --------------------------------------------------------------------------------------

    def deadline(self) -> float:
        if self._pending or self._changed or self._queue or self._unplaced:
            return self._now
        return min(self._gratuitous.deadline(), self._duplicates.deadline(), self._probe_timers.deadline())

    def on_deadline(self, now: float) -> None:
        self._now = now
        if self._unplaced:
            self._place_some(now)
        for key in list(itertools.islice(self._queue, self.burst)):
            self._own(key, now, check=self._queue.pop(key))
        steps = self._duplicates.due(now, BURST)
        for step in steps:
            self._follow(step, now)
        for key in self._gratuitous.due(now, max(BURST // 4, BURST - len(steps))):
            self._announce(key)
        while (ip := self._probe_timers.pop(now)) is not None:
            probe = self._probes.pop(ip)
            self._events.append(api.ProbeResult(text(ip), tuple(sorted(eth.mac_text(m) for m in probe.macs))))
            for index in probe.ports:
                self._forget((index, ip))

    # --- what goes out -----------------------------------------------------------------------------

    def pending(self) -> list[tuple[int, bytes]]:
        """(interface index, frame) to send, in order."""
        out, self._pending = self._pending, []
        return out

    def take_changed(self) -> Changes:
        """The keys that a port has learnt or forgotten; an interface may be gone from `ports`, or be a new one."""
        out, self._changed = self._changed, {}
        return out

    def ports(self) -> Mapping[int, tuple[str, Port]]:
        """Interface index -> (name, port), for every interface in use."""
        return {index: (i.link.name, i.port) for index, i in self._interfaces.items()}

    def port(self, index: int) -> tuple[str, Port] | None:
        interface = self._interfaces.get(index)
        return (interface.link.name, interface.port) if interface else None

    def events(self) -> list[api.Event]:
        out, self._events = self._events, []
        return out

    def used(self) -> tuple[str, ...]:
        """Names of the interfaces in use, sorted."""
        return self._picture.used()

    def own_macs(self) -> tuple[str, ...]:
        return self._picture.own_macs()

    def prefixes(self) -> tuple[str, ...]:
        return self._picture.prefixes()

    def dark(self) -> tuple[str, ...]:
        return self._picture.dark()

    def on_link(self, addresses: Collection[str]) -> frozenset[str]:
        return self._picture.on_link(addresses)

    def counters(self) -> dict[tuple[api.Metric, str], int]:
        counts = self.counts(self.owned_ips()).items()
        return {(metric, ip): values[at] for at, metric in enumerate(api.METRICS) for ip, values in counts}

    def owned_ips(self) -> list[bytes]:
        return list(self._ips)

    def counts(self, ips: Iterable[bytes]) -> dict[str, tuple[int, int, int]]:
        out: dict[str, tuple[int, int, int]] = {}
        for ip in ips:
            for index, interface in self._interfaces.items():
                answer = interface.port.get(ip) if (index, ip) in self._holders else None
                if answer is not None:  # else not taken into use yet
                    received, sent, _ = out.get(answer.address, (0, 0, 0))
                    out[answer.address] = received + answer.received, sent + answer.sent, self._sent.get(ip, 0)
        return out

    def drops(self) -> dict[tuple[str, str], int]:
        return {
            (interface.link.name, reason): count
            for interface in self._interfaces.values()
            for reason, count in interface.port.drops.items()
        }

    def conflicts(self) -> dict[tuple[str, str], str]:
        found = self._duplicates.conflicts().items()
        return {(text(ip), self._interfaces[index].link.name): eth.mac_text(mac) for (index, ip), mac in found}

    def status(self) -> dict[str, Any]:
        links, reasons = self._picture.links, self._picture.reasons

        def states(ip: bytes) -> dict[str, str] | None:
            here = [(index, link.name) for index, link in links.items() if (index, ip) in self._holders]
            found = {name: self._duplicates.state((index, ip)) for index, name in here}
            return {name: state.value if state else "queued" for name, state in found.items()} or None

        return {
            "interfaces": {link.name: reasons[i] or "used" for i, link in sorted(links.items())},
            "addresses": Lazy(self.owned_ips(), states, text),
            "conflicts": {f"{ip} on {name}": mac for (ip, name), mac in self.conflicts().items()},
            "unreachable": sorted(self._unreachable),
        }

    # --- inside --------------------------------------------------------------------------------------

    def _renew(self, keys: Iterable[Key], when: float) -> None:
        """Announce those of `keys` that are announced from the beginning."""
        for key in keys:
            if key in self._gratuitous:
                self._gratuitous.start(key, when)

    def _give_up(self, name: str, now: float) -> None:
        del self._groups[name]
        self._need(name, (), now, check=False)
        self._unplaced.pop(name, None)
        self._unreachable.discard(name)

    def _match(self, interfaces: tuple[str, ...], exclude: tuple[str, ...]) -> tuple[int, ...]:
        return self._picture.match(interfaces, exclude)

    def _interface(self, index: int) -> _Interface:
        interface = self._interfaces.get(index)
        if interface is None:
            link = self._picture.links[index]
            port = Port(link.mac, lambda heard: self._on_heard(index, heard))
            interface = self._interfaces[index] = _Interface(link, port)
        return interface

    def _drop_interface(self, index: int) -> None:
        """It is gone, or another one: forget all that was on it."""
        for name, keys in self._keys.items():
            if any(key[0] == index for key in keys):
                self._keys[name] = tuple(key for key in keys if key[0] != index)
        for key in [key for key in self._holders if key[0] == index]:
            self._unhold(key)
            self._queue.pop(key, None)
            self._claimed.pop(key, None)
            self._gratuitous.stop(key)
            self._duplicates.stop(key)
        for probe in self._probes.values():
            if index in probe.ports:
                probe.ports.remove(index)
        self._interfaces.pop(index, None)
        self._changed[index, b""] = None

    def _place_some(self, now: float) -> None:
        """Some of the groups whose interfaces are to be found anew."""
        for name in list(itertools.islice(self._unplaced, PLACED)):
            self._place(self._unplaced[name], now)

    def _place(self, group: api.OwnedGroup, now: float) -> None:
        """Compute where the group's addresses are answered for, and follow the difference."""
        self._unplaced.pop(group.key, None)
        patterns = group.interfaces, group.exclude_interfaces
        before = None if patterns in self._picture.matching else self._picture.announcing()
        indexes = self._match(*patterns)
        if before is not None and not before.issuperset(indexes):
            self._events.append(api.InterfacesChanged(self.used()))
        if indexes or not self._picture.links:
            self._unreachable.discard(group.key)
        elif group.key not in self._unreachable:
            self._unreachable.add(group.key)
            self._events.append(api.Unreachable(group.key))
        keys = tuple((index, packed(address)) for address in group.addresses for index in indexes)
        self._need(group.key, keys, now, check=group.check)

    def _need(self, name: str, keys: tuple[Key, ...], now: float, *, check: bool) -> None:
        before = self._keys.pop(name, ())
        if keys:
            self._keys[name] = keys
        if keys == before:
            return
        for key in keys:
            self._holders[key] = self._holders.get(key, 0) + 1
            if self._holders[key] == 1:
                self._ips[key[1]] = self._ips.get(key[1], 0) + 1
                self._queue[key] = check
        for key in before:
            self._holders[key] -= 1
            if not self._holders[key]:
                self._unhold(key)
                if self._queue.pop(key, None) is None:
                    self._disown(key)

    def _unhold(self, key: Key) -> None:
        """No group needs it any more, or its interface is gone."""
        del self._holders[key]
        self._ips[key[1]] -= 1
        if not self._ips[key[1]]:
            del self._ips[key[1]]
            self._sent.pop(key[1], None)

    def _own(self, key: Key, now: float, *, check: bool) -> None:
        index, ip = key
        self._interface(index).port.add(ip, text(ip))
        self._changed[index, ip] = None
        if self._duplicates.start(key, now, check=check, strict=index in self._picture.routes.interfaces(ip)):
            self._activate(key, now)

    def _disown(self, key: Key) -> None:
        self._claimed.pop(key, None)
        self._gratuitous.stop(key)
        self._duplicates.stop(key)
        self._forget(key)

    def _forget(self, key: Key) -> None:
        """Take the address from the port, unless somebody needs it there."""
        index, ip = key
        interface = self._interfaces.get(index)
        if interface is None:
            return
        if ip in self._probes:
            if key not in self._holders and (answer := interface.port.get(ip)) is not None:
                answer.active = False
        elif key not in self._holders:
            interface.port.remove(ip)
            self._changed[index, ip] = None

    def _activate(self, key: Key, now: float) -> None:
        index, ip = key
        interface = self._interfaces[index]
        answer = interface.port.get(ip)
        if answer is None or answer.active:
            return
        answer.active = True
        self._gratuitous.start(key, max(now, self._plugged.get(index, now)))
        self._events.append(api.Announcing(answer.address, interface.link.name))

    def _follow(self, step: Step[Key], now: float) -> None:
        index, ip = step.key
        interface = self._interfaces[index]
        if step.probe:
            self._pending.append((index, self._probe_frame(interface, ip)))
            return
        if step.announce:
            self._announce(step.key)
        if step.after in ANSWERING:
            self._activate(step.key, now)
        elif (answer := interface.port.get(ip)) is not None:
            answer.active = False
            self._gratuitous.stop(step.key)
        if step.mac:
            withheld = step.after is State.WITHHELD
            self._events.append(api.Conflict(text(ip), interface.link.name, eth.mac_text(step.mac), withheld))
        elif step.before in _CONFLICT and step.after not in _CONFLICT:
            self._events.append(api.ConflictGone(text(ip), interface.link.name))

    def _on_heard(self, index: int, heard: Heard) -> None:
        """Another host says that it holds an address known on this interface."""
        probe = self._probes.get(heard.ip)
        if probe is not None and len(probe.macs) < MACS:
            probe.macs.add(heard.mac)
        key = (index, heard.ip)
        if key not in self._holders or heard.mac in self._picture.macs:
            return
        if heard.mac in self._members:
            answer = self._interfaces[index].port.get(heard.ip)
            active = answer is not None and answer.active
            if heard.gratuitous and active and self._now >= self._claimed.get(key, 0.0) + CLAIM_INTERVAL:
                self._claimed[key] = self._now
                name = self._interfaces[index].link.name
                self._events.append(api.Claimed(text(heard.ip), name, eth.mac_text(heard.mac)))
        elif (step := self._duplicates.foreign(key, heard.mac, self._now)) is not None:
            self._follow(step, self._now)

    def _probe_frame(self, interface: _Interface, ip: bytes) -> bytes:
        mac = interface.port.mac
        if len(ip) == 4:
            return arp.probe(mac, ip)
        return ndp.probe(mac, self._picture.link_local.get(interface.link.index) or ndp.link_local(mac), ip)

    def _announce(self, key: Key) -> None:
        index, ip = key
        mac = self._interfaces[index].port.mac
        frames = arp.announcements(mac, ip) if len(ip) == 4 else (ndp.announcement(mac, ip),)
        self._sent[ip] = self._sent.get(ip, 0) + len(frames)
        self._pending += [(index, frame) for frame in frames]
