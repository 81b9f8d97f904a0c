"""Layer 2 on real sockets: `layer2.machine.Layer2Machine` wired to netlink, packet sockets and group joins.

See `layer2.api` for how the announcer's loop uses it. The path of a frame is `_Wire.readable`:
read, answer from the prepared frames, send; no machine, no queue and no object in between.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from metallb_common.obs import logs
from metallb_speaker.announcer.edge.groups import Groups
from metallb_speaker.announcer.edge.netlink import Netlink
from metallb_speaker.announcer.edge.packet import FRAME, FrameSocket, PacketSocket, check_permission
from metallb_speaker.announcer.edge.sysctl import arp_ignore
from metallb_speaker.announcer.layer2 import api, ipvs, ndp
from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2.duplicate import GRACE
from metallb_speaker.announcer.layer2.interfaces import Snapshot
from metallb_speaker.announcer.layer2.machine import Layer2Machine
from metallb_speaker.announcer.layer2.responder import Port

#: Frames read from one socket in one turn: about half a millisecond, so that a flood does not keep BFD waiting.
BATCH: Final = 48
#: An interface whose sockets could not be opened is tried again after this long.
REOPEN: Final = 1.0
#: Frames thrown away at most by `drain`, per socket: what its buffer can hold.
DRAIN: Final = 4096

OpenSocket = Callable[[str, int, int], FrameSocket]


def open_packet_socket(name: str, ifindex: int, ether_type: int) -> FrameSocket:
    """A real one. Raises OSError."""
    return PacketSocket(name, ifindex, ether_type)


class _Wire:
    """One socket of one interface."""

    __slots__ = ("readable", "sock")

    def __init__(
        self,
        sock: FrameSocket,
        port: Port,
        ether_type: int,
        before: Callable[[float], None],
        after: Callable[[float], None],
    ) -> None:
        self.sock = sock
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


class Layer2Edge:
    """`api.Layer2` on real interfaces. `open_socket` and `grace` are for tests."""

    def __init__(
        self,
        watch: api.Watch,
        unwatch: api.Unwatch,
        *,
        open_socket: OpenSocket = open_packet_socket,
        grace: float = GRACE,
    ) -> None:
        self.machine = Layer2Machine(grace)
        self._watch, self._unwatch = watch, unwatch
        self._open_socket = open_socket
        self._netlink = Netlink(watch, unwatch, self.on_links)
        self._groups = Groups()
        self._wires: dict[int, tuple[Port, _Wire, _Wire]] = {}
        self._handlers: dict[int, Callable[[float], None]] = {}
        self._reopen: dict[int, float] = {}
        self._ipvs = ""
        self._told: list[api.Event] = []

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

    def set_members(self, macs: Iterable[str]) -> None:
        self.machine.set_members(macs)

    def probe(self, address: str, now: float, wait: float = 0.05) -> None:
        self.machine.probe(address, now, wait)
        self._flush(now)

    def deadline(self) -> float:
        return min(self.machine.deadline(), self._netlink.deadline(), min(self._reopen.values(), default=api.NEVER))

    def on_deadline(self, now: float) -> None:
        self._netlink.on_deadline(now)
        self.machine.on_deadline(now)
        for index in [index for index, due in self._reopen.items() if due <= now]:
            del self._reopen[index]
            self._apply(index, (4, 16), now)
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
        changed: dict[int, list[int]] = {}
        for index, family in self.machine.take_changed():
            changed.setdefault(index, []).append(family)
        for index, families in changed.items():
            self._apply(index, families, now)
        for index, frame in self.machine.pending():
            wires = self._wires.get(index)
            if wires is None:
                continue
            port, arp_wire, ndp_wire = wires
            try:
                (ndp_wire if frame[12:14] == b"\x86\xdd" else arp_wire).sock.send(frame)
            except OSError:
                port.drops[eth.SEND_FAILED] += 1

    def _apply(self, index: int, families: Collection[int], now: float) -> None:
        """Bring the sockets of one interface in line with the machine."""
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
                families = (4, 16)
            _, arp_wire, ndp_wire = wires
            if 4 in families:
                arp_wire.sock.set_addresses(port.arp)
            if 16 in families:
                ndp_wire.sock.set_addresses(port.ndp)
                groups = {ndp.solicited_node(ip) for ip in port.ndp}
                self._groups.set(index, groups)
                ndp_wire.sock.set_groups(ndp.multicast_mac(group) for group in groups)
        except OSError as error:
            logs.warn(op="openInterface", interface=name, error=str(error))
            self._close(index)
            self._reopen[index] = now + REOPEN

    def _open(self, index: int, name: str, port: Port) -> tuple[Port, _Wire, _Wire]:
        opened: list[_Wire] = []
        try:
            for ether_type in (eth.ETH_P_ARP, eth.ETH_P_IPV6):
                sock = self._open_socket(name, index, ether_type)
                opened.append(_Wire(sock, port, ether_type, self.machine.at, self._after))
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
        self._groups.set(index, ())
        logs.info(event="deleteARPResponder", msg="deleted ARP responder for interface", interface=str(index))
        logs.info(event="deleteNDPResponder", msg="deleted NDP responder for interface", interface=str(index))
