"""HTTP in the announcer's loop: the sans-IO part of `metallb_common.obs.http`, written in slices.

A page is an iterator of pieces that are made as the reader takes them: a large /metrics costs no turn
more than one piece.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping

from metallb_common.obs import http, logs
from metallb_speaker.announcer.loop import Loop, Priority

#: Bytes that one turn hands to the kernel for one connection.
SLICE = 1 << 14
#: Seconds until the port is tried again, when it was taken.
RETRY = 1.0

#: What a path answers: status, content type, and the body in pieces.
Page = tuple[int, str, Iterator[bytes]]


class _Connection:
    def __init__(self, sock: socket.socket, since: float) -> None:
        self.sock = sock
        self.since = since
        self.head = b""
        self.out = bytearray()
        self.body: Iterator[bytes] | None = None


class WebEdge:
    """Serves until closed. Opening the port never raises: what is taken is tried again."""

    def __init__(self, loop: Loop, host: str, port: int, pages: Mapping[str, Callable[[], Page]]) -> None:
        self._loop, self._host, self._port, self._pages = loop, host, port, pages
        self._listening: list[socket.socket] = []
        self._connections: dict[int, _Connection] = {}
        self._said = ""
        self.ports: tuple[int, ...] = ()

    def open(self, now: float) -> None:
        try:
            self._listening = http.bind(self._host, self._port)
        except OSError as failure:
            if str(failure) != self._said:
                self._said = str(failure)
                logs.error(op="http", msg="cannot listen; trying again", port=self._port, error=self._said)
            self._loop.at(now + RETRY, self.open)
            return
        self.ports = tuple(sorted({sock.getsockname()[1] for sock in self._listening}))
        for sock in self._listening:
            self._loop.watch(sock.fileno(), lambda now, s=sock: self._accept(s, now), Priority.WEB)  # type: ignore[misc]
        logs.info(op="http", msg="serving /metrics, /livez, /readyz and /status", port=self.ports[0])
        self._loop.at(now + 1.0, self._sweep)

    def close(self) -> None:
        for sock in self._listening:
            self._loop.unwatch(sock.fileno())
            sock.close()
        self._listening = []
        for connection in list(self._connections.values()):
            self._drop(connection)

    def _accept(self, listening: socket.socket, now: float) -> None:
        try:
            sock, _ = listening.accept()
        except OSError:  # gone already, or out of descriptors: the next turn tries again
            return
        sock.setblocking(False)
        while len(self._connections) >= http.MAX_CONNECTIONS:
            self._drop(min(self._connections.values(), key=lambda c: c.since))
        connection = _Connection(sock, now)
        self._connections[sock.fileno()] = connection
        self._loop.watch(sock.fileno(), lambda now: self._read(connection), Priority.WEB)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(http.MAX_HEAD)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        if not data:
            self._drop(connection)
            return
        connection.head += data
        self._answer(connection)

    def _answer(self, connection: _Connection) -> None:
        try:
            request = http.parse_request(connection.head)
        except http.BadRequest as refusal:
            self._start(connection, http.render(http.text(refusal.status, f"{refusal}\n")), None)
            return
        if request is None:
            return
        make = self._pages.get(request.path)
        if make is None:
            known = http.text(404, "paths: " + " ".join(sorted(self._pages)) + "\n")
            self._start(connection, http.render(known, head_only=request.method == "HEAD"), None)
            return
        status, content_type, body = make()
        # Without a length: the end of the connection ends the body (RFC 9112 section 6.3).
        head = http.render(http.Response(status, content_type, b""), head_only=True)
        head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length:"))
        self._start(connection, head, body if request.method == "GET" else None)

    def _start(self, connection: _Connection, head: bytes, body: Iterator[bytes] | None) -> None:
        connection.out += head
        connection.body = body
        fd = connection.sock.fileno()
        self._loop.unwatch(fd)  # whatever else it sends is not read
        self._loop.watch_writable(fd, lambda now: self._write(connection), Priority.WEB)

    def _write(self, connection: _Connection) -> None:
        if len(connection.out) < SLICE and connection.body is not None:
            try:
                connection.out += next(connection.body)
            except StopIteration:
                connection.body = None
            except Exception as failure:  # a defect in one page must not end the announcing
                logs.error(op="http", msg="answering failed", error=repr(failure))
                self._drop(connection)
                return
        try:
            sent = connection.sock.send(connection.out[:SLICE])
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        del connection.out[:sent]
        if not connection.out and connection.body is None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_WR)
            self._drop(connection)

    def _sweep(self, now: float) -> None:
        """End connections of slow senders and slow readers."""
        if not self._listening:
            return
        for connection in list(self._connections.values()):
            answering = bool(connection.out) or connection.body is not None
            if now - connection.since > (http.ANSWER_TIMEOUT if answering else 0) + http.HEAD_TIMEOUT:
                self._drop(connection)
        self._loop.at(now + 1.0, self._sweep)

    def _drop(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        if self._connections.pop(fd, None) is not None:
            self._loop.unwatch(fd)
            connection.sock.close()
