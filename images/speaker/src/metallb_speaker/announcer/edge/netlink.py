"""rtnetlink: a socket that hears of changes, and one that reads what there is now.

Of a notification only its arrival counts (see `layer2.rtnetlink`), so neither a lost one (ENOBUFS) nor
a truncated one matters. Changes in quick succession, as of pods that start, are read at most ten times a second.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from typing import Final

from metallb_speaker.announcer.edge.packet import attach
from metallb_speaker.announcer.layer2 import bpf
from metallb_speaker.announcer.layer2.api import NEVER, Unwatch, Watch
from metallb_speaker.announcer.layer2.bpf import Block
from metallb_speaker.announcer.layer2.interfaces import Snapshot
from metallb_speaker.announcer.layer2.rtnetlink import GROUPS, PROTOCOLS, RTM_DELROUTE, RTM_NEWROUTE, Dump

SOL_NETLINK: Final = 270
NETLINK_GET_STRICT_CHK: Final = 12
#: At least this long from one reading to the next.
PACE: Final = 0.1
#: A reading that got stuck is begun anew after this long; so is one that failed.
PATIENCE: Final = 2.0
#: Everything is read anew this often, whatever was heard: a safety net.
ANYWAY: Final = 60.0
#: A picture of two moments may lack an interface that is there, which would silence it: it is thrown away, but for
#: every so-many-th in a row, lest steady change keep us blind.
TORN: Final = 10
#: Datagrams (at most 32 KiB each) handled in one turn: about a millisecond.
BATCH: Final = 4


def monitor_filter() -> Block:
    """Refuse notifications of routes that a routing daemon made: they can be a million, and are never connected."""
    allowed: Block = [(bpf.LD_B, 0, 0, 16 + 5)]
    for protocol in PROTOCOLS:
        allowed += [(bpf.JEQ, 0, 1, protocol), (bpf.RET, 0, 0, 64)]
    allowed += bpf.DROP
    # The type is in host order, a load is in network order.
    kinds = [int.from_bytes(struct.pack("=H", kind), "big") for kind in (RTM_NEWROUTE, RTM_DELROUTE)]
    return [
        (bpf.LD_H, 0, 0, 4),
        (bpf.JEQ, 2, 0, kinds[0]),
        (bpf.JEQ, 1, 0, kinds[1]),
        (bpf.RET, 0, 0, 64),
        *allowed,
    ]


class Netlink:
    """Calls `changed(snapshot, now)` with each new picture of the interfaces."""

    def __init__(self, watch: Watch, unwatch: Unwatch, changed: Callable[[Snapshot, float], None]) -> None:
        self._watch, self._unwatch, self._changed = watch, unwatch, changed
        self._monitor: socket.socket | None = None
        self._reader: socket.socket | None = None
        self._dump: Dump | None = None
        self._sequence = 0
        self._strict = False
        self._torn = 0
        self._dirty = True
        self._read_at = -NEVER
        self._retry_at = NEVER

    def open(self, now: float) -> None:
        """Listen, and begin the first reading. Raises OSError."""
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._monitor = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        attach(self._monitor, monitor_filter())
        self._monitor.bind((0, GROUPS))
        self._reader = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._reader.bind((0, 0))
        with contextlib.suppress(OSError):
            self._reader.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
            self._strict = True
        self._watch(self._monitor.fileno(), self._on_monitor)
        self._watch(self._reader.fileno(), self._on_reader)
        self._start(now)

    def close(self) -> None:
        for sock in (self._monitor, self._reader):
            if sock is not None:
                self._unwatch(sock.fileno())
                sock.close()
        self._monitor = self._reader = None

    def deadline(self) -> float:
        if self._monitor is None:
            return NEVER
        if self._dump is not None:
            return self._retry_at
        return self._read_at + (PACE if self._dirty else ANYWAY)

    def on_deadline(self, now: float) -> None:
        if now >= self.deadline():
            self._start(now)

    def _on_monitor(self, now: float) -> None:
        assert self._monitor is not None  # noqa: S101  registered only while open
        for _ in range(64):
            try:
                self._monitor.recv(64)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # ENOBUFS: some were lost; a reading makes up for them
                    break
            self._dirty = True
        if self._dirty and self._dump is None and now >= self._read_at + PACE:
            self._start(now)

    def _start(self, now: float) -> None:
        self._dirty = False
        self._sequence = (self._sequence + 64) & 0x7FFFFFFF
        self._dump = Dump(self._sequence, strict=self._strict)
        self._read_at = now
        self._next(now)

    def _next(self, now: float) -> None:
        assert self._dump is not None and self._reader is not None  # noqa: S101, PT018
        request = self._dump.request()
        if request is None:
            snapshot, interrupted = self._dump.snapshot(), self._dump.interrupted
            self._dump = None
            self._torn = self._torn + 1 if interrupted else 0
            self._dirty |= interrupted
            if not interrupted or (self._torn % TORN == 0 and snapshot.links):
                self._changed(snapshot, now)
            return
        self._retry_at = now + PATIENCE
        with contextlib.suppress(OSError):  # tried again at `_retry_at`
            self._reader.send(request)

    def _on_reader(self, now: float) -> None:
        assert self._reader is not None  # noqa: S101
        for _ in range(BATCH):
            try:
                data, _, flags, _ = self._reader.recvmsg(65536)
            except BlockingIOError:
                return
            except OSError:
                self._start_over()
                return
            if self._dump is None:
                continue
            if flags & socket.MSG_TRUNC:
                self._dump.interrupted = True
            if self._dump.receive(data):
                self._next(now)

    def _start_over(self) -> None:
        self._dump = None
        self._dirty = True
