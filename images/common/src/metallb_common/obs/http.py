"""A small HTTP/1.1 server (RFC 9112) for /metrics, /livez, /readyz and /status.

The request reader and the response writer are sans-IO: the controller and the cluster half use them
under asyncio (`serve`), the announcer in its own loop. One request per connection, GET and HEAD only:
probes and scrapes need no more, and a connection that closes holds no state.

A stranger on the network can open connections and send bytes slowly: a head is at most MAX_HEAD bytes
and HEAD_TIMEOUT seconds, and of more than MAX_CONNECTIONS the oldest is dropped, so that a probe always
finds a place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metallb_common.obs import logs

if TYPE_CHECKING:
    import asyncio
    import socket

#: Prometheus sends about 500 bytes, a browser about 2,000; more is not for us.
MAX_HEAD = 8192
#: Seconds for a whole request head (slow senders), and for taking the whole answer (slow readers).
HEAD_TIMEOUT = 5.0
ANSWER_TIMEOUT = 10.0
#: Connections at once, each at most MAX_HEAD bytes of memory before it is answered.
MAX_CONNECTIONS = 64

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")


@dataclass(frozen=True, slots=True)
class Request:
    """A request head. `path` has neither query nor authority."""

    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; `status` is one that RFC 9110 defines."""

    status: int
    content_type: str
    body: bytes


#: What a path answers. Called in the process's loop: it must not wait.
Route = Callable[[], Response]


class BadRequest(Exception):
    """The bytes are no request that is served here; `status` is the answer that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def text(status: int, body: str) -> Response:
    return Response(status, TEXT, body.encode())


def as_json(value: Any, status: int = 200) -> Response:
    return Response(status, JSON, json.dumps(value, indent=1, default=str).encode() + b"\n")


def parse_request(data: bytes) -> Request | None:
    """The request that `data` begins with; None while its head is incomplete.

    Raises BadRequest for anything else: 400 for what is no HTTP (RFC 9112 section 3), 431 for a head
    beyond MAX_HEAD (RFC 6585 section 5), 405 for another method, 505 for another major version.
    """
    end = re.search(rb"\r?\n\r?\n", data)
    if (end.start() if end else len(data)) > MAX_HEAD:
        raise BadRequest(431, f"request head of more than {MAX_HEAD} bytes")
    if end is None:
        first = data.split(b"\n", 1)
        if len(first) == 2:
            _request_line(first[0].rstrip(b"\r"))  # garbage is refused without waiting for its end
        elif re.search(rb"[^\r\x20-\x7e]", data):
            raise BadRequest(400, "not a request line")
        return None
    lines = re.split(rb"\r?\n", data[: end.start()])
    method, target, minor = _request_line(lines[0])
    hosts = 0
    for line in lines[1:]:
        field = _FIELD_LINE.fullmatch(line)
        if field is None:
            raise BadRequest(400, "not a header field")
        hosts += field[1].lower() == b"host"
    if hosts > 1 or (hosts == 0 and minor >= 1):  # RFC 9112 section 3.2
        raise BadRequest(400, "exactly one Host header field is needed")
    if method not in ("GET", "HEAD"):
        raise BadRequest(405, "only GET and HEAD")
    return Request(method, _path(target))


def _request_line(line: bytes) -> tuple[str, str, int]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadRequest(400, "not a request line")
    if match[3] != b"1":
        raise BadRequest(505, "only HTTP/1")
    return match[1].decode(), match[2].decode(), int(match[4])


def _path(target: str) -> str:
    """The path of an origin-form or absolute-form target (RFC 9112 section 3.2)."""
    absolute = re.match(r"(?i)https?://[^/?#]*", target)
    if absolute:
        target = target[absolute.end() :] or "/"
    path = re.split(r"[?#]", target, maxsplit=1)[0]
    if not path.startswith("/"):
        raise BadRequest(400, "not a path")
    return path


def render(response: Response, *, head_only: bool = False) -> bytes:
    """The bytes of an answer; the connection ends after it."""
    head = (
        f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Unknown')}\r\n"
        f"Content-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\n"
        + ("Allow: GET, HEAD\r\n" if response.status == 405 else "")
        + "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    ).encode()
    return head if head_only else head + response.body


def answer(data: bytes, routes: Mapping[str, Route]) -> bytes | None:
    """The whole answer to what a connection has sent so far; None while more is needed. Never raises."""
    try:
        request = parse_request(data)
    except BadRequest as refusal:
        return render(text(refusal.status, f"{refusal}\n"))
    if request is None:
        return None
    route = routes.get(request.path)
    if route is None:
        return render(text(404, "paths: " + " ".join(sorted(routes)) + "\n"), head_only=request.method == "HEAD")
    try:
        response = route()
    except Exception as failure:  # a defect in one page must not end the process, nor hide
        logs.error(op="http", msg="answering failed", path=request.path, error=repr(failure))
        response = text(500, "internal error, see the log\n")
    return render(response, head_only=request.method == "HEAD")


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening, non-blocking TCP sockets; of no host: every address, IPv6 and IPv4. Raises OSError."""
    import socket

    if host:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        targets = list(dict.fromkeys((info[0], info[4]) for info in infos))
    else:
        targets = [(socket.AF_INET6, ("::", port, 0, 0))]
    out: list[socket.socket] = []
    try:
        for family, address in targets:
            try:
                sock = _listen(family, address, dual=not host)
            except OSError:
                if host or family != socket.AF_INET6:
                    raise
                sock = _listen(socket.AF_INET, ("0.0.0.0", port), dual=False)  # noqa: S104 - no IPv6 in this kernel
            out.append(sock)
    except OSError:
        for sock in out:
            sock.close()
        raise
    return out


def _listen(family: int, address: Any, *, dual: bool) -> socket.socket:
    import socket

    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        sock.bind(address)
        sock.listen(MAX_CONNECTIONS)
    except OSError:
        sock.close()
        raise
    return sock


class Server:
    """A running server of an asyncio process. `ports` are those bound (port 0 takes a free one)."""

    def __init__(self, servers: list[asyncio.Server], connections: dict[Any, None]) -> None:
        self._servers = servers
        self._connections = connections
        self.ports = sorted({s.getsockname()[1] for server in servers for s in server.sockets})

    def close(self) -> None:
        """Stop listening, and drop what is open."""
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.abort()


async def serve(host: str, port: int, routes: Mapping[str, Route]) -> Server:
    """Serve until `close`. Raises OSError when the port cannot be bound."""
    import asyncio

    connections: dict[Any, None] = {}  # in order of arrival

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport: asyncio.Transport = transport  # type: ignore[assignment]
            self._data = b""
            self._answered = False
            self._timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, self._late)
            connections[self._transport] = None
            if len(connections) > MAX_CONNECTIONS:
                next(iter(connections)).abort()

        def data_received(self, data: bytes) -> None:
            if self._answered:
                return  # what follows the head (a body, a second request) is not read
            self._data += data
            out = answer(self._data, routes)
            if out is not None:
                self._send(out)

        def _send(self, out: bytes) -> None:
            self._answered = True
            self._data = b""
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT, self._transport.abort)
            self._transport.write(out)
            self._transport.close()

        def _late(self) -> None:
            self._send(render(text(408, "the request took too long\n")))

        def connection_lost(self, exc: Exception | None) -> None:
            self._timer.cancel()
            connections.pop(self._transport, None)

    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Connection, sock=sock) for sock in bind(host, port)]
    return Server(servers, connections)
