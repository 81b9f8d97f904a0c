"""The announcer's end of the stream: a unix socket that the cluster half connects to, or a socket pair.

Bytes are read only when no whole frame is waiting, and one frame is taken a turn: a snapshot of
thousands of items arrives in as many small steps.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

from metallb_common.obs import logs
from metallb_speaker import __version__, stream
from metallb_speaker.announcer.loop import Loop, Priority

READ = 1 << 16
#: Reports under way; past it the cluster half is hung, and reports are dropped rather than kept.
MAX_OUT = 1 << 20


class LinkEdge:
    """At most one connection; a new one replaces the old. `on_event` gets what the reader gives."""

    def __init__(
        self, loop: Loop, reader: stream.DesiredReader, on_event: Callable[[stream.Event, float], None]
    ) -> None:
        self._loop, self._reader, self._on_event = loop, reader, on_event
        self._listening: socket.socket | None = None
        self._sock: socket.socket | None = None
        self._out = bytearray()
        self._path = ""
        self.on_connected: Callable[[], None] = lambda: None
        self.on_lost: Callable[[], None] = lambda: None
        self.dropped_reports = 0

    @property
    def connected(self) -> bool:
        return self._sock is not None

    def listen(self, path: str) -> None:
        """Wait for the cluster half at `path`; what is left there of an earlier run is replaced. Raises OSError.

        The other container is not root, and this process has no capability to give the socket away: so the
        socket is open to whoever can see the directory, which is a volume of this pod alone.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            listening.bind(path)
            os.chmod(path, 0o666)  # noqa: S103
            listening.listen(4)
        except OSError:
            listening.close()
            raise
        self._path, self._listening = path, listening
        self._loop.watch(listening.fileno(), self._accept, Priority.LINK)

    def attach(self, sock: socket.socket) -> None:
        """Talk over this socket from now on."""
        self._lose("replaced by a new connection")
        sock.setblocking(False)
        self._sock = sock
        self._out = bytearray()
        self._reader.connected()
        self._loop.watch(sock.fileno(), self._readable, Priority.LINK)
        self._send(stream.hello(__version__))
        self.on_connected()

    def report(self, report: stream.Report) -> None:
        """Send a report; dropped when nobody is connected, since a new connection tells everything anew."""
        self._send(stream.report(report))

    def close(self) -> None:
        self._lose("")
        if self._listening is not None:
            self._loop.unwatch(self._listening.fileno())
            self._listening.close()
            self._listening = None
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def _accept(self, now: float) -> None:
        if self._listening is None:
            return
        try:
            sock, _ = self._listening.accept()
        except OSError:
            return
        self.attach(sock)

    def _readable(self, now: float) -> None:
        if self._sock is None:
            return
        try:
            data = self._sock.recv(READ)
        except BlockingIOError:
            return
        except OSError as failure:
            self._lose(str(failure))
            return
        if not data:
            self._lose("end of stream")
            return
        self._reader.feed(data)
        self._loop.unwatch(self._sock.fileno())
        self._step(now)

    def _step(self, now: float, sock: socket.socket | None = None) -> None:
        """One event; then another one in the next turn, or more bytes. `sock` is whose turn it was to be."""
        if self._sock is None or sock not in (None, self._sock):
            return
        sock = self._sock
        try:
            event = self._reader.next()
        except stream.StreamError as failure:
            self._lose(str(failure))
            return
        if event is None:
            self._loop.watch(sock.fileno(), self._readable, Priority.LINK)
        else:
            self._loop.soon(lambda now: self._step(now, sock))
            self._on_event(event, now)
        if self._reader.asks():
            self._send(stream.again())

    def _send(self, data: bytes) -> None:
        if self._sock is None:
            return
        if len(self._out) > MAX_OUT:
            self.dropped_reports += 1
            return
        self._out += data
        self._flush(0.0)

    def _flush(self, now: float) -> None:
        if self._sock is None:
            return
        try:
            sent = self._sock.send(self._out)
        except BlockingIOError:
            sent = 0
        except OSError as failure:
            self._lose(str(failure))
            return
        del self._out[:sent]
        self._loop.watch_writable(self._sock.fileno(), self._flush if self._out else None, Priority.LINK)

    def _lose(self, why: str) -> None:
        if self._sock is None:
            return
        self._loop.unwatch(self._sock.fileno())
        self._sock.close()
        self._sock = None
        if why:
            logs.warn(op="link", msg="the cluster half is gone; what is announced stays", error=why)
        self.on_lost()
