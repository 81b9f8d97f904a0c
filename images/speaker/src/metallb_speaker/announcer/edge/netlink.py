"""rtnetlink: a socket that hears of changes, and one that reads what there is now, in a thread of its own.

Of a notification only its arrival counts (see `layer2.rtnetlink`), so neither a lost one (ENOBUFS) nor
a truncated one matters. Changes in quick succession, as of pods that start, are read at most ten times a second.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
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
#: Octets of a datagram; the kernel fills at most 32 KiB.
READ: Final = 1 << 16


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


class _Worker(threading.Thread):
    """Asks the kernel and reads its answers, one datagram per order, beside the loop.

    A dump waits for the lock that every change of an interface holds, for tens of milliseconds while pods start
    and end. Orders and answers go through queues; `fd` is readable when there are answers.
    """

    def __init__(self, reader: socket.socket) -> None:
        super().__init__(name="netlink", daemon=True)
        self.reader = reader
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers: deque[tuple[bytes, int] | None] = deque()

    def order(self, request: bytes) -> None:
        """Send `request` unless it is empty, and read one datagram."""
        self._orders.put(request)

    def answers(self) -> Iterator[tuple[bytes, int] | None]:
        """(datagram, flags) of each; None for an order that failed, or that nothing came for in PATIENCE seconds."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        while self._answers:
            yield self._answers.popleft()

    def run(self) -> None:
        while (request := self._orders.get()) is not None:
            answer = None
            with contextlib.suppress(OSError):
                self.reader.settimeout(PATIENCE)
                if request:
                    self.reader.send(request)
                data, _, flags, _ = self.reader.recvmsg(READ)
                answer = data, flags
            self._answers.append(answer)
            os.eventfd_write(self.fd, 1)
        self.reader.close()
        os.close(self.fd)

    def end(self) -> None:
        """Close everything, as soon as the thread is through with what it does."""
        self._orders.put(None)


class Netlink:
    """Calls `changed(snapshot, now)` with each new picture of the interfaces."""

    def __init__(self, watch: Watch, unwatch: Unwatch, changed: Callable[[Snapshot, float], None]) -> None:
        self._watch, self._unwatch, self._changed = watch, unwatch, changed
        self._monitor: socket.socket | None = None
        self._worker: _Worker | None = None
        self._dump: Dump | None = None
        self._sequence = 0
        self._strict = False
        self._torn = 0
        self._dirty = True
        self._read_at = -NEVER
        self._retry_at = NEVER

    def open(self, now: float) -> None:
        """Listen, and begin the first reading. Raises OSError."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._monitor = socket.socket(socket.AF_NETLINK, kind | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        attach(self._monitor, monitor_filter())
        self._monitor.bind((0, GROUPS))
        reader = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        reader.bind((0, 0))
        with contextlib.suppress(OSError):
            reader.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
            self._strict = True
        self._worker = _Worker(reader)
        self._watch(self._monitor.fileno(), self._on_monitor)
        self._watch(self._worker.fd, self._on_answers)
        self._worker.start()
        self._start(now)

    def close(self) -> None:
        if self._monitor is not None:
            self._unwatch(self._monitor.fileno())
            self._monitor.close()
            self._monitor = None
        if self._worker is not None:
            self._unwatch(self._worker.fd)
            self._worker.end()
            self._worker = None

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
        assert self._dump is not None and self._worker is not None  # noqa: S101, PT018
        request = self._dump.request()
        if request is None:
            snapshot, interrupted = self._dump.snapshot(), self._dump.interrupted
            self._dump = None
            self._torn = self._torn + 1 if interrupted else 0
            self._dirty |= interrupted
            if not interrupted or (self._torn % TORN == 0 and snapshot.links):
                self._changed(snapshot, now)
            return
        self._retry_at = now + 2 * PATIENCE  # the worker says so before, if nothing comes
        self._worker.order(request)

    def _on_answers(self, now: float) -> None:
        assert self._worker is not None  # noqa: S101
        for answer in self._worker.answers():
            if answer is None:  # tried again at once, PACE after it began
                self._dump, self._dirty = None, True
                continue
            if self._dump is None:
                continue
            data, flags = answer
            if flags & socket.MSG_TRUNC:
                self._dump.interrupted = True
            if self._dump.receive(data):
                self._next(now)
            else:
                self._worker.order(b"")
