"""Layer 2 on real sockets: `layer2.machine.Layer2Machine` wired to netlink, packet sockets and group joins.

See `layer2.api` for how the announcer's loop uses it. The path of a frame is `_Wire.readable`:
read, answer from the prepared frames, send; no machine, no queue and no object in between.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from metallb_common.obs import logs
from metallb_speaker.announcer.edge.groups import GroupJoins, Groups
from metallb_speaker.announcer.edge.netlink import Netlink
from metallb_speaker.announcer.edge.packet import FRAME, FrameSocket, PacketSocket, check_permission
from metallb_speaker.announcer.edge.sysctl import arp_ignore
from metallb_speaker.announcer.layer2 import api, ipvs, ndp
from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2.duplicate import GRACE
from metallb_speaker.announcer.layer2.filter import FilterPlan
from metallb_speaker.announcer.layer2.interfaces import Snapshot
from metallb_speaker.announcer.layer2.machine import Layer2Machine
from metallb_speaker.announcer.layer2.responder import Port

#: Frames read from one socket in one turn: about half a millisecond, so that a flood does not keep BFD waiting.
BATCH: Final = 48
#: An interface whose sockets could not be opened is tried again after this long.
REOPEN: Final = 1.0
#: Frames thrown away at most by `drain`, per socket: what its buffer can hold.
DRAIN: Final = 4096

#: Groups left in one turn.
LEAVES: Final = 32

OpenSocket = Callable[[str, int, int], FrameSocket]


def open_packet_socket(name: str, ifindex: int, ether_type: int) -> FrameSocket:
    """A real one. Raises OSError."""
    return PacketSocket(name, ifindex, ether_type)


class _Wire:
    """One socket of one interface."""

    __slots__ = ("plan", "readable", "sock")

    def __init__(
        self,
        sock: FrameSocket,
        port: Port,
        index: int,
        ether_type: int,
        before: Callable[[float], None],
        after: Callable[[float], None],
    ) -> None:
        self.sock = sock
        self.plan = FilterPlan(index, 4 if ether_type == eth.ETH_P_ARP else 16)
        answer = port.answer_arp if ether_type == eth.ETH_P_ARP else port.answer_ndp
        recv, send, unsent = sock.recv, sock.send, port.unsent

        def readable(now: float) -> None:
            """Answer what is queued, at most BATCH frames."""
            before(now)
            try:
                for _ in range(BATCH):
                    reply = answer(recv(FRAME))
                    if reply is not None:
                        try:
                            send(reply)
                        except OSError:  # the send queue is full, or the interface is going down
                            unsent(reply)
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.ENETDOWN:  # netlink tells when it is back, or gone
                    logs.warn(op="receiveFrame", error=str(error))
            after(now)

        self.readable = readable

    def load(self, now: float) -> None:
        """Load the filter that is due, if one is. Raises OSError."""
        while (program := self.plan.program(now)) is not None:
            try:
                self.sock.load(program)
            except OSError as error:
                if error.errno not in (errno.ENOMEM, errno.ENOBUFS) or not self.plan.refused(len(program), now):
                    raise


class Layer2Edge:
    """`api.Layer2` on real interfaces. What is given by keyword is for tests."""

    def __init__(
        self,
        watch: api.Watch,
        unwatch: api.Unwatch,
        *,
        open_socket: OpenSocket = open_packet_socket,
        groups: GroupJoins | None = None,
        grace: float = GRACE,
    ) -> None:
        self.machine = Layer2Machine(grace)
        self._watch, self._unwatch = watch, unwatch
        self._open_socket = open_socket
        self._netlink = Netlink(watch, unwatch, self.on_links)
        self._groups = Groups() if groups is None else groups
        self._wires: dict[int, tuple[Port, _Wire, _Wire]] = {}
        self._handlers: dict[int, Callable[[float], None]] = {}
        self._reopen: dict[int, float] = {}
        self._users: dict[tuple[int, bytes], set[bytes]] = {}  # (interface, group) -> addresses
        self._unused: dict[tuple[int, bytes], None] = {}
        self._ipvs = ""
        self._told: list[api.Event] = []
        self._now = 0.0

    def open(self, now: float) -> None:
        check_permission()
        self._netlink.open(now)

    def close(self) -> None:
        self._netlink.close()
        for index in list(self._wires):
            self._close(index)
        self._groups.close()

    def on_links(self, snapshot: Snapshot, now: float) -> None:
        """A new picture of the interfaces; netlink calls this."""
        self.machine.links(snapshot, now)
        names = {link.name for link in snapshot.links}
        used = self.machine.used()
        # Read only where it matters; a picture comes once a minute at least, so that the fix is noticed.
        warning = ipvs.judge(names, used, arp_ignore(used)) if ipvs.INTERFACE in names else ""
        if warning and not self._ipvs:
            self._told.append(api.IpvsConflict(warning))
        self._ipvs = warning
        self._flush(now)

    def set(self, groups: Mapping[str, api.OwnedGroup], now: float) -> None:
        self.machine.set(groups, now)
        self.machine.on_deadline(now)
        self._flush(now)

    def change(self, groups: Mapping[str, api.OwnedGroup | None], now: float) -> None:
        self.machine.change(groups, now)
        self.machine.on_deadline(now)
        self._flush(now)

    def renew(self, addresses: Iterable[str], now: float) -> None:
        self.machine.renew(addresses, now)
        self.machine.on_deadline(now)
        self._flush(now)

    def set_members(self, macs: Iterable[str]) -> None:
        self.machine.set_members(macs)

    def probe(self, address: str, now: float, wait: float = 0.05) -> None:
        self.machine.probe(address, now, wait)
        self._flush(now)

    def deadline(self) -> float:
        if self._unused:
            return self._now
        plans = [wire.plan.deadline() for _, *wires in self._wires.values() for wire in wires]
        return min(self.machine.deadline(), self._netlink.deadline(), *self._reopen.values(), *plans)

    def on_deadline(self, now: float) -> None:
        self._now = now
        self._netlink.on_deadline(now)
        self.machine.on_deadline(now)
        for index in [index for index, due in self._reopen.items() if due <= now]:
            del self._reopen[index]
            self._apply(index, (), now)
        for index, (_, *wires) in list(self._wires.items()):
            due = next((wire for wire in wires if wire.plan.deadline() <= now), None)
            if due is not None:
                self._load(index, due, now)
                break  # a large filter is a millisecond's work: one a turn
        self._leave_unused()
        self._flush(now)

    def on_readable(self, fd: int, now: float) -> None:
        """For loops that keep no handler per descriptor."""
        if (handler := self._handlers.get(fd)) is not None:
            handler(now)

    def events(self) -> list[api.Event]:
        told, self._told = self._told, []
        return [*self.machine.events(), *told]

    def drain(self, now: float) -> None:
        for _, *wires in self._wires.values():
            for wire in wires:
                try:
                    for _ in range(DRAIN):
                        wire.sock.recv(FRAME)
                except OSError:
                    continue

    def own_macs(self) -> tuple[str, ...]:
        return self.machine.own_macs()

    def on_link(self, addresses: Collection[str]) -> frozenset[str]:
        return self.machine.on_link(addresses)

    def counters(self) -> Mapping[tuple[api.Metric, str], int]:
        return self.machine.counters()

    def owned_ips(self) -> list[bytes]:
        return self.machine.owned_ips()

    def counts(self, ips: Iterable[bytes]) -> Mapping[tuple[api.Metric, str], int]:
        return self.machine.counts(ips)

    def drops(self) -> Mapping[tuple[str, str], int]:
        return self.machine.drops()

    def conflicts(self) -> Mapping[tuple[str, str], str]:
        return self.machine.conflicts()

    def ipvs_conflict(self) -> str:
        return self._ipvs

    def status(self) -> dict[str, Any]:
        return {**self.machine.status(), "ipvsConflict": self._ipvs}

    # --- inside ----------------------------------------------------------------------------------

    def _after(self, now: float) -> None:
        """After frames were answered: a port may have told the machine of another host."""
        if self.machine.busy:
            self._flush(now)

    def _flush(self, now: float) -> None:
        """Renew filters and groups first, then send: an answer to a probe must find the filter open."""
        changed: dict[int, list[bytes]] = {}
        for index, ip in self.machine.take_changed():
            changed.setdefault(index, []).append(ip)
        for index, ips in changed.items():
            self._apply(index, ips, now)
        for index, frame in self.machine.pending():
            wires = self._wires.get(index)
            if wires is None:
                continue
            port, arp_wire, ndp_wire = wires
            try:
                (ndp_wire if frame[12:14] == b"\x86\xdd" else arp_wire).sock.send(frame)
            except OSError:
                port.drops[eth.SEND_FAILED] += 1

    def _apply(self, index: int, ips: Iterable[bytes], now: float) -> None:
        """Bring the sockets of one interface in line with the machine; `ips` are the changes."""
        known = self.machine.port(index)
        wires = self._wires.get(index)
        if wires is not None and (known is None or wires[0] is not known[1]):
            self._close(index)
            wires = None
        if known is None:
            self._reopen.pop(index, None)
            return
        name, port = known
        try:
            if wires is None:
                wires = self._open(index, name, port)
                ips = [*port.arp, *port.ndp]
            _, arp_wire, ndp_wire = wires
            for ip in ips:
                self._change(index, ip, ndp_wire if len(ip) == 16 else arp_wire, now, here=port.get(ip) is not None)
            arp_wire.load(now)
            ndp_wire.load(now)
        except OSError as error:
            self._failed(index, name, error, now)

    def _load(self, index: int, wire: _Wire, now: float) -> None:
        try:
            wire.load(now)
        except OSError as error:
            self._failed(index, str(index), error, now)

    def _failed(self, index: int, name: str, error: OSError, now: float) -> None:
        """The sockets of an interface do not work: give them up, and try anew a little later."""
        logs.warn(op="openInterface", interface=name, error=str(error))
        self._close(index)
        self._reopen[index] = now + REOPEN

    def _change(self, index: int, ip: bytes, wire: _Wire, now: float, *, here: bool) -> None:
        if here:
            wire.plan.add(ip, now)
        else:
            wire.plan.remove(ip, now)
        if len(ip) == 16:
            group = ndp.solicited_node(ip)
            users = self._users.setdefault((index, group), set())
            if here and not users:
                wire.sock.join(ndp.multicast_mac(group))
                self._groups.join(index, group)
            (users.add if here else users.discard)(ip)
            if not users:
                self._unused[index, group] = None

    def _leave_unused(self) -> None:
        """Leave groups whose last address has gone: a few at a time, for nobody waits for it."""
        for index, group in list(itertools.islice(self._unused, LEAVES)):
            del self._unused[index, group]
            if self._users.get((index, group)):
                continue
            self._users.pop((index, group), None)
            self._groups.leave(index, group)
            wires = self._wires.get(index)
            if wires is not None:
                wires[2].sock.leave(ndp.multicast_mac(group))

    def _open(self, index: int, name: str, port: Port) -> tuple[Port, _Wire, _Wire]:
        opened: list[_Wire] = []
        try:
            for ether_type in (eth.ETH_P_ARP, eth.ETH_P_IPV6):
                sock = self._open_socket(name, index, ether_type)
                opened.append(_Wire(sock, port, index, ether_type, self.machine.at, self._after))
        except OSError:
            for wire in opened:
                wire.sock.close()
            raise
        for wire in opened:
            fd = wire.sock.fileno()
            self._handlers[fd] = wire.readable
            self._watch(fd, wire.readable)
        logs.info(event="createARPResponder", interface=name, msg="created ARP responder for interface")
        logs.info(event="createNDPResponder", interface=name, msg="created NDP responder for interface")
        self._wires[index] = wires = (port, opened[0], opened[1])
        return wires

    def _close(self, index: int) -> None:
        wires = self._wires.pop(index, None)
        if wires is None:
            return
        for wire in wires[1:]:
            fd = wire.sock.fileno()
            self._handlers.pop(fd, None)
            self._unwatch(fd)
            wire.sock.close()
        self._groups.forget(index)
        for key in [key for key in self._users if key[0] == index]:
            del self._users[key]
            self._unused.pop(key, None)
        logs.info(event="deleteARPResponder", msg="deleted ARP responder for interface", interface=str(index))
        logs.info(event="deleteNDPResponder", msg="deleted NDP responder for interface", interface=str(index))
