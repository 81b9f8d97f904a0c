"""AF_PACKET sockets of one interface: one for ARP, one for NDP, each behind a kernel filter.

A socket is made with protocol 0, which receives nothing; it gets its filter, and only then is bound to
its protocol. So there is no moment at which a frame is queued that the filter would have refused, and
nothing to drain. Later filters replace the former in one step (SO_ATTACH_FILTER).

VLAN tags, own frames and frames for other hosts are refused inside the filter (see `layer2.filter`):
a socket bound to one protocol no longer sees the tag (PACKET_AUXDATA is empty there), the filter does.
"""

from __future__ import annotations

import array
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from metallb_speaker.announcer.layer2 import bpf
from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2.bpf import Block
from metallb_speaker.announcer.layer2.filter import arp_program, ndp_program

SO_ATTACH_FILTER: Final = 26
SOL_PACKET: Final = 263
PACKET_ADD_MEMBERSHIP: Final = 1
PACKET_DROP_MEMBERSHIP: Final = 2
PACKET_MR_MULTICAST: Final = 0
PACKET_QDISC_BYPASS: Final = 20
PACKET_IGNORE_OUTGOING: Final = 23

#: Octets read of a frame: questions are shorter, and the rest of a longer one is of no use.
FRAME: Final = 2048

_FPROG = struct.Struct("HP")
_MREQ = struct.Struct("iHH8s")


class FrameSocket(Protocol):
    """Frames of one protocol on one interface. `recv` raises BlockingIOError when there is none."""

    recv: Callable[[int], bytes]
    send: Callable[[bytes], int]

    def fileno(self) -> int: ...
    def set_addresses(self, addresses: Iterable[bytes]) -> int: ...
    def set_groups(self, macs: Iterable[bytes]) -> None: ...
    def close(self) -> None: ...


def attach(sock: socket.socket, program: Block) -> None:
    """Let through only what `program` accepts. Raises OSError(ENOMEM) if it is larger than net.core.optmem_max."""
    code = array.array("B", bpf.assemble(program))
    address, _ = code.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _FPROG.pack(len(program), address))


def check_permission() -> None:
    """Raises PermissionError without NET_RAW: once and clearly, rather than for each interface."""
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0).close()


class PacketSocket:
    """`FrameSocket` on a real interface. Raises OSError where it cannot be opened."""

    def __init__(self, name: str, ifindex: int, ether_type: int) -> None:
        self._ifindex = ifindex
        self._generate = arp_program if ether_type == eth.ETH_P_ARP else ndp_program
        self._limit = bpf.MAX_INSTRUCTIONS
        self._groups: set[bytes] = set()
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        try:
            attach(self._sock, bpf.DROP)
            for option in (PACKET_IGNORE_OUTGOING, PACKET_QDISC_BYPASS):
                with contextlib.suppress(OSError):  # Linux < 4.20 has not the first: the filter refuses own frames, too
                    self._sock.setsockopt(SOL_PACKET, option, 1)
            self._sock.bind((name, ether_type))
            if socket.if_nametoindex(name) != ifindex:
                raise OSError(errno.ENODEV, f"{name} is another interface now")
        except OSError:
            self._sock.close()
            raise
        self.recv: Callable[[int], bytes] = self._sock.recv
        self.send: Callable[[bytes], int] = self._sock.send

    def fileno(self) -> int:
        return self._sock.fileno()

    def set_addresses(self, addresses: Iterable[bytes]) -> int:
        """Let through only what concerns these addresses; returns the number of instructions.

        A kernel before 6.7 allows a socket 20 KiB of options by default: there the program is made smaller.
        """
        known = list(addresses)
        while True:
            program = self._generate(known, self._ifindex, self._limit)
            try:
                attach(self._sock, program)
                return len(program)
            except OSError as error:
                if error.errno not in (errno.ENOMEM, errno.ENOBUFS) or self._limit <= 64:
                    raise
                self._limit = min(self._limit, len(program)) // 2

    def set_groups(self, macs: Iterable[bytes]) -> None:
        """Let the interface take frames for these multicast MAC addresses."""
        wanted = set(macs)
        for option, some in (
            (PACKET_DROP_MEMBERSHIP, self._groups - wanted),
            (PACKET_ADD_MEMBERSHIP, wanted - self._groups),
        ):
            for mac in some:
                with contextlib.suppress(OSError):  # a vanished interface; the groups went with it
                    self._sock.setsockopt(SOL_PACKET, option, _MREQ.pack(self._ifindex, PACKET_MR_MULTICAST, 6, mac))
        self._groups = wanted

    def close(self) -> None:
        self._sock.close()


class FakeSocket:
    """`FrameSocket` without a kernel: `deliver` queues a frame, `sent` holds what was sent."""

    def __init__(self, name: str, ifindex: int, ether_type: int) -> None:
        self.name, self.ifindex, self.ether_type = name, ifindex, ether_type
        self.sent: list[bytes] = []
        self.addresses: set[bytes] = set()
        self.groups: set[bytes] = set()
        self.closed = False
        self.failure: OSError | None = None
        self._queue: list[bytes] = []
        self.recv = self._recv
        self.send = self._send

    def deliver(self, frame: bytes) -> None:
        self._queue.append(frame)

    def _recv(self, size: int) -> bytes:
        if self.failure is not None:
            raise self.failure
        if not self._queue:
            raise BlockingIOError
        return self._queue.pop(0)[:size]

    def _send(self, frame: bytes) -> int:
        if self.failure is not None:
            raise self.failure
        self.sent.append(frame)
        return len(frame)

    def fileno(self) -> int:
        return -1 if self.closed else 1000 + 2 * self.ifindex + (self.ether_type == eth.ETH_P_IPV6)

    def set_addresses(self, addresses: Iterable[bytes]) -> int:
        self.addresses = set(addresses)
        return len(self.addresses)

    def set_groups(self, macs: Iterable[bytes]) -> None:
        self.groups = set(macs)

    def close(self) -> None:
        self.closed = True
