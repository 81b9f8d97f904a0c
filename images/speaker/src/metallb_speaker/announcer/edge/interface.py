"""The sockets of one interface: a wire per family that has addresses there, its kernel filter and its groups.

The path of a frame is `Wire.readable`: read, answer from the prepared frames, send; no machine, no queue
and no object in between.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from metallb_common.obs import logs
from metallb_speaker.announcer.edge.groups import GroupJoins
from metallb_speaker.announcer.edge.packet import FRAME, FrameSocket
from metallb_speaker.announcer.layer2 import api, ndp
from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2.filter import FilterPlan
from metallb_speaker.announcer.layer2.responder import Port

#: Frames read from one socket in one turn: about half a millisecond, so that a flood does not keep BFD waiting.
BATCH: Final = 48
#: After an answer the socket is looked at this often again before the loop sleeps: about 25 microseconds, in which who
#: asks for many addresses in turn asks for the next, and is spared the time that waking up takes.
POLLS: Final = 40
#: Seconds of processor time, of a turn, for leaving groups.
LEAVING: Final = 0.0004
#: Frames thrown away at most by `drain`: what a socket's buffer can hold.
DRAIN: Final = 4096

#: Seconds that a socket stays open without addresses: members that are doubted have theirs asked for again and again.
LINGER: Final = 30.0

#: Length of an address -> EtherType, and the name in events of the log.
FAMILIES: Final = {4: (eth.ETH_P_ARP, "ARP"), 16: (eth.ETH_P_IPV6, "NDP")}
#: What reading says when an interface goes down, vanishes, or was let go earlier in this turn: netlink tells the rest.
GOING: Final = frozenset((errno.ENETDOWN, errno.ENXIO, errno.ENODEV, errno.EBADF))

OpenSocket = Callable[[str, int, int], FrameSocket]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an interface's sockets need of the rest. `before` and `after` are called round each batch of frames."""

    watch: api.Watch
    unwatch: api.Unwatch
    open_socket: OpenSocket
    groups: GroupJoins
    handlers: dict[int, Callable[[float], None]]
    before: Callable[[float], None]
    after: Callable[[float], None]


class Wire:
    """One socket."""

    __slots__ = ("fd", "plan", "readable", "sock")

    def __init__(self, sock: FrameSocket, port: Port, index: int, family: int, around: Surroundings) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.plan = FilterPlan(index, family)
        answer = port.answer_arp if family == 4 else port.answer_ndp
        recv, send, unsent = sock.recv, sock.send, port.unsent
        before, after = around.before, around.after

        def readable(now: float) -> None:
            """Answer what is queued, at most BATCH frames."""
            before(now)
            left, polls = BATCH, 0
            while left:
                try:
                    reply = answer(recv(FRAME))
                except BlockingIOError:
                    if not polls:
                        break
                    polls -= 1
                    continue
                except OSError as error:
                    if error.errno not in GOING:
                        logs.warn(op="receiveFrame", error=str(error))
                    break
                left -= 1
                if reply is not None:
                    polls = POLLS
                    try:
                        send(reply)
                    except OSError:  # the send queue is full, or the interface is going down
                        unsent(reply)
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


class Interface:
    """One interface.

    A family without addresses has no socket after a while: even a filter costs a little, for each IPv6 packet.
    """

    def __init__(self, index: int, name: str, port: Port, around: Surroundings) -> None:
        self.index, self.name, self.port = index, name, port
        self._around = around
        self._wires: dict[int, Wire] = {}
        self._idle: dict[int, float] = {}  # family -> when to close its wire, which has no addresses
        self._users: dict[bytes, set[bytes]] = {}  # group -> addresses
        self._unused: dict[bytes, None] = {}

    def change(self, ips: Iterable[bytes], now: float) -> None:
        """Follow the port, where `ips` have come or gone. Raises OSError where the kernel does not let us."""
        for ip in ips:
            if not ip:
                continue
            family, here = len(ip), self.port.get(ip) is not None
            wire = self._wires.get(family)
            if wire is None:
                if not here:
                    continue
                wire = self._open(family)
            if here:
                wire.plan.add(ip, now)
            else:
                wire.plan.remove(ip, now)
            if family == 16:
                self._group(ndp.solicited_node(ip), ip, wire, here=here)
        for family, known in ((4, self.port.arp), (16, self.port.ndp)):
            if known:
                self._idle.pop(family, None)
            elif family in self._wires:
                self._idle.setdefault(family, now + LINGER)
        for wire in self._wires.values():
            wire.load(now)

    def deadline(self) -> float:
        if self._unused:
            return 0.0  # at once
        due = min(self._idle.values(), default=api.NEVER)
        for wire in self._wires.values():
            due = min(due, wire.plan.deadline())
        return due

    def on_deadline(self, now: float) -> None:
        """One filter that is due, a few groups to leave, and sockets that were without addresses for long.

        Raises OSError.
        """
        due = next((wire for wire in self._wires.values() if wire.plan.deadline() <= now), None)
        if due is not None:
            due.load(now)  # a large filter is a millisecond's work: one a turn
        for family in [family for family, when in self._idle.items() if when <= now]:
            self._close(family)
        begin = time.thread_time()
        while self._unused and time.thread_time() - begin < LEAVING:
            group = next(iter(self._unused))
            del self._unused[group]
            if not self._users.get(group):
                self._users.pop(group, None)
                self._around.groups.leave(self.index, group)
                if (wire := self._wires.get(16)) is not None:
                    wire.sock.leave(ndp.multicast_mac(group))

    def send(self, frame: bytes) -> None:
        wire = self._wires.get(16 if frame[12:14] == b"\x86\xdd" else 4)
        if wire is None:
            return
        try:
            wire.sock.send(frame)
        except OSError:
            self.port.drops[eth.SEND_FAILED] += 1

    def drain(self) -> None:
        """Read and forget."""
        for wire in self._wires.values():
            try:
                for _ in range(DRAIN):
                    wire.sock.recv(FRAME)
            except OSError:
                continue

    def close(self) -> None:
        for family in FAMILIES:
            self._close(family)

    def _group(self, group: bytes, ip: bytes, wire: Wire, *, here: bool) -> None:
        users = self._users.setdefault(group, set())
        if here and not users:
            wire.sock.join(ndp.multicast_mac(group))
            self._around.groups.join(self.index, group)
        (users.add if here else users.discard)(ip)
        if not users:
            self._unused[group] = None

    def _open(self, family: int) -> Wire:
        ether_type, protocol = FAMILIES[family]
        wire = Wire(
            self._around.open_socket(self.name, self.index, ether_type), self.port, self.index, family, self._around
        )
        self._wires[family] = wire
        self._around.handlers[wire.fd] = wire.readable
        self._around.watch(wire.fd, wire.readable)
        logs.info(
            event=f"create{protocol}Responder",
            interface=self.name,
            msg=f"created {protocol} responder for interface",
        )
        return wire

    def _close(self, family: int) -> None:
        self._idle.pop(family, None)
        wire = self._wires.pop(family, None)
        if wire is None:
            return
        self._around.handlers.pop(wire.fd, None)
        self._around.unwatch(wire.fd)
        wire.sock.close()
        if family == 16:
            self._around.groups.forget(self.index)
            self._users.clear()
            self._unused.clear()
        protocol = FAMILIES[family][1]
        logs.info(
            event=f"delete{protocol}Responder",
            interface=self.name,
            msg=f"deleted {protocol} responder for interface",
        )
