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
from collections.abc import Callable
from typing import Final, Protocol

from metallb_speaker.announcer.layer2 import bpf
from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2.bpf import Block

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
    def load(self, program: Block) -> None: ...
    def join(self, mac: bytes) -> None: ...
    def leave(self, mac: bytes) -> None: ...
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

    def load(self, program: Block) -> None:
        """Replace the filter. Raises OSError; ENOMEM: too long for this kernel's net.core.optmem_max."""
        attach(self._sock, program)

    def join(self, mac: bytes) -> None:
        """Let the interface take frames for this multicast MAC address."""
        self._membership(PACKET_ADD_MEMBERSHIP, mac)

    def leave(self, mac: bytes) -> None:
        self._membership(PACKET_DROP_MEMBERSHIP, mac)

    def _membership(self, option: int, mac: bytes) -> None:
        with contextlib.suppress(OSError):  # a vanished interface: its memberships went with it
            self._sock.setsockopt(SOL_PACKET, option, _MREQ.pack(self._ifindex, PACKET_MR_MULTICAST, 6, mac))

    def close(self) -> None:
        self._sock.close()


class FakeSocket:
    """`FrameSocket` without a kernel: `deliver` queues a frame, `sent` holds what was sent."""

    def __init__(self, name: str, ifindex: int, ether_type: int) -> None:
        self.name, self.ifindex, self.ether_type = name, ifindex, ether_type
        self.sent: list[bytes] = []
        self.program: Block = []
        self.groups: set[bytes] = set()
        self.closed = False
        self.failure: OSError | None = None  # of everything
        self.full: OSError | None = None  # of sending
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
        if self.failure or self.full:
            raise self.failure or self.full or OSError
        self.sent.append(frame)
        return len(frame)

    def fileno(self) -> int:
        return -1 if self.closed else 1000 + 2 * self.ifindex + (self.ether_type == eth.ETH_P_IPV6)

    def load(self, program: Block) -> None:
        if self.failure is not None:
            raise self.failure
        self.program = program

    def join(self, mac: bytes) -> None:
        self.groups.add(mac)

    def leave(self, mac: bytes) -> None:
        self.groups.discard(mac)

    def close(self) -> None:
        self.closed = True
