"""The sockets of all BGP sessions: acts on the machine's actions, carries bytes, bounded per turn.

One epoll of its own: the announcer's loop watches that one descriptor, and this file knows which of
its sockets are to be written.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from metallb_common.obs import logs
from metallb_speaker.announcer.bgp.neighbor import Dial, Hangup, Neighbor
from metallb_speaker.announcer.bgp.speaker import BgpSpeaker
from metallb_speaker.announcer.bgp.wire.capabilities import Family
from metallb_speaker.announcer.edge import tcp
from metallb_speaker.announcer.layer2.api import Unwatch, Watch
from metallb_speaker.desired import BgpPeer

Address = tcp.Address

#: What all connections together may read in a turn, in octets and in messages (small ones cost more than their
#: octets): neither a full table nor a flood may starve BFD.
READ_MAX, MESSAGES_MAX = 1 << 17, 1 << 9
#: Octets that are read of a connection that ends: a receive buffer's worth.
DRAIN_MAX = 1 << 20
#: Seconds between attempts to have the port that another process holds.
LISTEN_RETRY = 5.0
#: Seconds between looks for an address of a family that has no next hop: from the first to the last, doubling.
LOOK_FIRST, LOOK_LAST = 2.0, 60.0
#: Seconds between looks whether the next hops are still there.
LOOK_AGAIN = 10.0
#: Given the own address of a session, the node's next hop by family: addresses on the same interface.
NextHops = Callable[[Address], Mapping[Family, Address | None]]


def same_address_only(own: Address) -> Mapping[Family, Address | None]:
    """The session's own address is the only next hop known."""
    return {"ipv4": own if own.version == 4 else None, "ipv6": own if own.version == 6 else None}


@dataclass(slots=True)
class _Connection:
    peer: str
    token: int
    sock: socket.socket
    connecting: bool
    writing: bool = False
    look_at: float = 0.0  # at the node's addresses
    look_wait: float = LOOK_FIRST


class BgpEdge:
    """Sockets for a `BgpSpeaker`. None of the verbs blocks or raises for what a network does."""

    def __init__(
        self,
        speaker: BgpSpeaker,
        watch: Watch,
        unwatch: Unwatch,
        *,
        next_hops: NextHops = same_address_only,
        listen_port: int = 179,
    ) -> None:
        self._speaker = speaker
        self._unwatch = unwatch
        self._next_hops = next_hops
        self._listen_port = listen_port
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}  # by descriptor
        self._by_token: dict[tuple[str, int], _Connection] = {}
        self._listeners: dict[int, socket.socket] = {}
        self._listening: dict[int, dict[str, str]] = {}  # version -> peer address -> MD5 key that is set
        self.listen_errors: dict[int, str] = {}  # version -> why the port cannot be had
        self.key_errors: dict[str, str] = {}  # peer address -> why its MD5 key cannot be set; its calls are refused
        self._listen_wanted: dict[str, str] = {}
        self._listen_again = 0.0
        self._buffer = bytearray(1 << 14)
        self._octets = self._messages = 0  # that may still be read in this turn
        watch(self._epoll.fileno(), self.on_ready)

    # --- the loop's verbs -----------------------------------------------------------------------

    def on_ready(self, now: float) -> None:
        """Something of ours is readable or writable."""
        self._octets, self._messages = READ_MAX, MESSAGES_MAX
        seen: set[int] = set()
        # One at a time: the kernel goes round those that are ready, so who was not reached comes first the next time.
        while self._octets > 0 and self._messages > 0 and (ready := self._epoll.poll(0, 1)):
            ((fd, mask),) = ready
            if fd in seen:
                break
            seen.add(fd)
            if fd in self._listeners:
                self._accept(self._listeners[fd], now)
            elif (connection := self._connections.get(fd)) is not None:
                if connection.connecting:
                    self._connected(connection, now)
                elif mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    self._read(connection, now)
        self.act(now)

    def act(self, now: float) -> None:
        """Do what the machine asks for and send what is pending. Call after anything that moved the machine."""
        if (self.listen_errors or self.key_errors) and now >= self._listen_again:
            self._listen_again = now + LISTEN_RETRY
            self.listen_for(self._listen_wanted)
        for peer, action in self._speaker.actions():
            if isinstance(action, Dial):
                self._dial(peer, action, now)
            else:
                self._hangup(peer, action)
        for connection in list(self._connections.values()):
            if not connection.connecting:
                self._look(connection, now)
                self._write(connection, now)

    def listen_for(self, peers: Mapping[str, str]) -> None:
        """Take calls from these addresses (address -> MD5 key or ""); nobody: do not listen.

        A port that is taken is reported in `listen_errors`, not fatal: the network plugin's BGP may hold it. It is
        tried again every LISTEN_RETRY seconds, as long as something else turns the loop.
        """
        self._listen_wanted = dict(peers)
        self.key_errors = {}
        for version in (4, 6):
            wanted = {a: k for a, k in peers.items() if ipaddress.ip_address(a).version == version}
            listener = next(
                (s for s in self._listeners.values() if (s.family == socket.AF_INET) == (version == 4)), None
            )
            if not wanted:
                if listener is not None:
                    self._epoll.unregister(listener.fileno())
                    del self._listeners[listener.fileno()]
                    listener.close()
                self._listening.pop(version, None)
                self.listen_errors.pop(version, None)
                continue
            try:
                if listener is None:
                    self._listen(version, wanted)
                else:
                    self._set_keys(version, listener, wanted)
                self.listen_errors.pop(version, None)
            except OSError as error:
                self.listen_errors[version] = f"cannot listen on port {self._listen_port}: {error}"

    def _listen(self, version: int, wanted: Mapping[str, str]) -> None:
        listener = tcp.bind(version, self._listen_port)
        try:
            self._listening[version] = {}
            self._set_keys(version, listener, wanted)
            listener.listen(16)
        except OSError:
            listener.close()
            raise
        self._listeners[listener.fileno()] = listener
        self._epoll.register(listener.fileno(), select.EPOLLIN)

    def _set_keys(self, version: int, listener: socket.socket, wanted: Mapping[str, str]) -> None:
        """Each address by itself: one whose key the kernel does not take concerns no other."""
        keys = self._listening[version]
        for address in sorted(keys.keys() | wanted.keys()):
            key = wanted.get(address, "")
            try:
                if key != keys.get(address, ""):
                    tcp.set_md5(listener, ipaddress.ip_address(address), key)
            except (OSError, ValueError) as error:
                if address in wanted:
                    self.key_errors[address] = f"calls are refused, the password cannot be set: {_words(error)}"
                continue
            keys[address] = key
            if not key:
                del keys[address]

    def close(self) -> None:
        for connection in list(self._connections.values()):
            self._drop(connection)
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        self._unwatch(self._epoll.fileno())
        self._epoll.close()

    # --- connections ----------------------------------------------------------------------------

    def _register(self, connection: _Connection) -> None:
        self._connections[connection.sock.fileno()] = connection
        self._by_token[connection.peer, connection.token] = connection
        mask = select.EPOLLOUT if connection.connecting else select.EPOLLIN
        self._epoll.register(connection.sock.fileno(), mask)

    def _dial(self, key: str, action: Dial, now: float) -> None:
        peer, neighbor = self._speaker.peer(key), self._speaker.neighbor(key)
        if peer is None or neighbor is None:
            return
        try:
            address = ipaddress.ip_address(peer.address)
            sock = tcp.dial(address, peer.port, source=peer.source, password=peer.password, gtsm=peer.gtsm)
        except (OSError, ValueError) as error:
            neighbor.dial_failed(action.token, _words(error), now)
            return
        self._register(_Connection(key, action.token, sock, connecting=True))

    def _connected(self, connection: _Connection, now: float) -> None:
        neighbor = self._speaker.neighbor(connection.peer)
        error = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error or neighbor is None:
            self._drop(connection)
            if neighbor is not None:
                neighbor.dial_failed(connection.token, os.strerror(error), now)
            return
        connection.connecting = False
        if (peer := self._speaker.peer(connection.peer)) is not None:
            self._demand(connection.sock, peer)
        self._epoll.modify(connection.sock.fileno(), select.EPOLLIN)
        neighbor.dialed(connection.token, self._hops(connection.sock), now)

    @staticmethod
    def _demand(sock: socket.socket, peer: BgpPeer) -> None:
        if peer.gtsm:
            version = 4 if sock.family == socket.AF_INET else 6
            tcp.send_hops(sock, version=version, gtsm=True)
            tcp.demand_hops(sock, version=version)

    def _hops(self, sock: socket.socket) -> Mapping[Family, Address | None]:
        own = ipaddress.ip_address(str(sock.getsockname()[0]).split("%")[0])
        return self._next_hops(own)

    def _look(self, connection: _Connection, now: float) -> None:
        """An address may come after the session (IPv6 takes its time, RFC 4862 section 5.4), and go before it."""
        if now < connection.look_at:
            return
        neighbor = self._speaker.neighbor(connection.peer)
        if neighbor is None or not neighbor.carries(connection.token):
            connection.look_at = now + LOOK_FIRST
            return
        neighbor.set_next_hops(self._hops(connection.sock), now)
        if neighbor.lacks_next_hop:
            connection.look_at = now + connection.look_wait
            connection.look_wait = min(LOOK_LAST, connection.look_wait * 2)
        else:
            connection.look_at, connection.look_wait = now + LOOK_AGAIN, LOOK_FIRST

    def _accept(self, listener: socket.socket, now: float) -> None:
        for _ in range(16):
            try:
                sock, remote = listener.accept()
            except OSError:
                return
            sock.setblocking(False)
            address = str(remote[0]).split("%")[0]
            key = self._speaker.by_address(address) if address not in self.key_errors else None
            peer = self._speaker.peer(key) if key is not None else None
            neighbor = self._speaker.neighbor(key) if key is not None else None
            if key is None or peer is None or neighbor is None:
                sock.close()  # not a peer of ours: closed without a word, as RFC 4271 section 8.1.1 allows
                continue
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._demand(sock, peer)
                token = neighbor.accepted(self._hops(sock), now)
            except OSError:
                token = None
            if token is None:
                sock.close()
                continue
            self._register(_Connection(key, token, sock, connecting=False))

    def _read(self, connection: _Connection, now: float) -> None:
        neighbor = self._speaker.neighbor(connection.peer)
        if neighbor is None:
            self._drop(connection)
            return
        while self._octets > 0 and self._messages > 0:
            try:
                count = connection.sock.recv_into(self._buffer)
            except BlockingIOError:
                return
            except OSError:
                count = 0
            if count == 0:
                neighbor.receive(connection.token, None, now)
                self._drop(connection)
                return
            self._octets -= count
            try:
                self._messages -= neighbor.receive(connection.token, bytes(memoryview(self._buffer)[:count]), now)
            except Exception as defect:
                self._give_up(connection, neighbor, defect, now)
                return
            if count < len(self._buffer):
                return

    def _give_up(self, connection: _Connection, neighbor: Neighbor, defect: Exception, now: float) -> None:
        """A defect of ours that this connection has met: it is lost, as if the transport had failed."""
        logs.error(op="bgp", peer=connection.peer, error=repr(defect), msg="a defect: the connection is closed")
        with contextlib.suppress(Exception):
            neighbor.receive(connection.token, None, now)
        self._drop(connection)

    def _write(self, connection: _Connection, now: float) -> None:
        neighbor = self._speaker.neighbor(connection.peer)
        if neighbor is None:
            return
        blocked = False
        while data := neighbor.pending(connection.token):
            try:
                count = connection.sock.send(data)
            except BlockingIOError:
                blocked = True
                break
            except OSError:
                neighbor.receive(connection.token, None, now)
                self._drop(connection)
                return
            neighbor.sent(connection.token, count, now)
            if count < len(data):
                blocked = True
                break
        if blocked != connection.writing:
            connection.writing = blocked
            self._epoll.modify(connection.sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if blocked else 0))

    def _hangup(self, key: str, action: Hangup) -> None:
        connection = self._by_token.get((key, action.token))
        if connection is None:
            return
        if action.last and not connection.connecting:
            with contextlib.suppress(OSError):
                connection.sock.send(action.last)
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        if self._connections.pop(fd, None) is None:
            return
        self._by_token.pop((connection.peer, connection.token), None)
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)
        tcp.demand_no_hops(connection.sock)
        # A NOTIFICATION must not be lost to a reset: unread data would make close() send one (RFC 1122 4.2.2.13). Of a
        # peer that floods us there is always more.
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_WR)
            for _ in range(DRAIN_MAX // len(self._buffer)):
                if not connection.sock.recv_into(self._buffer):
                    break
        connection.sock.close()


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)
