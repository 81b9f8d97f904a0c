"""The UDP sockets of BFD sessions (RFC 5881 section 4, RFC 5883): one pair per family to receive, one per
session to send. Bounded reads per turn; TTL checked here, since only here it is seen."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket
import struct
from collections import Counter

from metallb_speaker.announcer.bfd.session import Session
from metallb_speaker.announcer.bfd.wire import CONTROL_PORT, MULTIHOP_PORT, DecodeError, Packet
from metallb_speaker.announcer.bgp.speaker import BgpSpeaker
from metallb_speaker.announcer.edge.echo import EchoEdge
from metallb_speaker.announcer.layer2.api import Unwatch, Watch
from metallb_speaker.desired import BgpPeer

#: Packets that one socket may read in a turn.
BATCH = 64
#: Source ports of BFD (RFC 5881 section 4).
_PORTS = range(49152, 65536)
_ONE_HOP_TTL = 255
_IP_TTL, _IP_PKTINFO = 2, 8  # linux/in.h; Python 3.11 has no name for the second


def _port(version: int, port: int) -> str:
    return f"port {port} (IPv{version})"


def _udp(version: int) -> socket.socket:
    """Raises OSError where the kernel lacks the family."""
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    return socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)


def _told(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, str]:
    """The TTL that a packet came with, and the address of ours that it was sent to; 0 and "" where unknown."""
    ttl, own = 0, ""
    for level, kind, value in ancillary:
        if (level, kind) in ((socket.IPPROTO_IP, _IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)):
            ttl = struct.unpack_from("=i", value)[0]
        elif (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            own = str(ipaddress.IPv4Address(value[8:12]))  # behind the interface, and the address to answer from
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            own = str(ipaddress.IPv6Address(value[:16]))
    return ttl, own


class BfdEdge:
    """Carries packets between the sessions of a `BgpSpeaker` and the wire."""

    def __init__(self, speaker: BgpSpeaker, watch: Watch, unwatch: Unwatch) -> None:
        self._speaker = speaker
        self._watch, self._unwatch = watch, unwatch
        self._receivers: dict[tuple[int, int], socket.socket] = {}  # (version, port)
        self._senders: dict[str, tuple[tuple[str, str], socket.socket]] = {}  # peer -> ((address, source), socket)
        self._echo = EchoEdge(speaker, watch, unwatch)
        self.dropped: Counter[str] = Counter()  # by reason
        self._errors: dict[str, str] = {}  # peer or port -> why it cannot work
        self._followed = -1  # the machine's generation that the sockets are for

    @property
    def errors(self) -> dict[str, str]:
        """By peer or port, why it cannot work."""
        return {**self._errors, **self._echo.errors}

    def follow(self, now: float) -> None:
        """Open what the sessions need, close what none needs, send what is pending."""
        for peer, session in self._speaker.ending_bfd():
            self._send(peer.key, peer, session)
        if self._followed != self._speaker.bfd_generation:
            self._followed = self._speaker.bfd_generation
            self._open_needed()
        self._echo.follow(now)
        self.flush()

    def _open_needed(self) -> None:
        needed = set()
        for key in self._speaker.bfd_sessions():
            peer = self._speaker.peer(key)
            if peer is not None:
                version = ipaddress.ip_address(peer.address).version
                needed.add((version, MULTIHOP_PORT if peer.multihop else CONTROL_PORT))
        for gone in self._receivers.keys() - needed:
            sock = self._receivers.pop(gone)
            self._unwatch(sock.fileno())
            sock.close()
        for version, port in needed - self._receivers.keys():
            self._open(version, port)
        for key in self._senders.keys() - self._speaker.bfd_sessions().keys():
            self._senders.pop(key)[1].close()
        kept = {*self._speaker.bfd_sessions(), *(_port(version, port) for version, port in needed)}
        for outdated in self._errors.keys() - kept:
            del self._errors[outdated]

    def _open(self, version: int, port: int) -> None:
        try:
            sock = _udp(version)
        except OSError as error:
            self._no_port(version, port, error)
            return
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if version == 4:
                sock.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
                sock.bind(("0.0.0.0", port))  # noqa: S104 - packets are taken by discriminator, address and TTL
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                sock.bind(("::", port))
        except OSError as error:
            sock.close()
            self._no_port(version, port, error)
            return
        self._errors.pop(_port(version, port), None)
        self._receivers[version, port] = sock
        self._watch(sock.fileno(), lambda now: self._read(sock, port, now))

    def _no_port(self, version: int, port: int, error: OSError) -> None:
        self._errors[_port(version, port)] = f"cannot receive BFD: {error}"
        self._followed = -1  # tried again in the next turn: the port may be held by the speaker before us

    def _read(self, sock: socket.socket, port: int, now: float) -> None:
        for _ in range(BATCH):
            try:
                data, ancillary, _, remote = sock.recvmsg(128, 128)
            except OSError:
                break
            ttl, own = _told(ancillary)
            self._packet(data, str(remote[0]).split("%")[0], own, ttl, port, now)
        self.flush()

    def _packet(self, data: bytes, source: str, own: str, ttl: int, port: int, now: float) -> None:
        if port == CONTROL_PORT and ttl != _ONE_HOP_TTL:  # RFC 5881 section 5
            self.dropped["ttl is not 255"] += 1
            return
        try:
            packet = Packet.decode(data)
        except DecodeError as error:
            self.dropped[str(error)] += 1
            return
        key = (
            self._speaker.bfd_by_discriminator(packet.your_discriminator)
            if packet.your_discriminator
            else self._speaker.bfd_by_address(source, own, multihop=port == MULTIHOP_PORT)
        )
        session = self._speaker.bfd(key) if key is not None else None
        peer = self._speaker.peer(key) if key is not None else None
        if session is None or peer is None or peer.address != source:
            self.dropped["no such session"] += 1
            return
        if (port == MULTIHOP_PORT) != peer.multihop:  # else the other port were a way around the TTL of 255
            self.dropped["another session's port"] += 1
            return
        if port == MULTIHOP_PORT and ttl < session.profile.minimum_ttl:
            self.dropped["ttl below minimum-ttl"] += 1
            return
        session.receive(packet, now)

    def _sender(self, key: str, peer: BgpPeer) -> socket.socket | None:
        wanted = (peer.address, peer.source)
        if key in self._senders:
            if self._senders[key][0] == wanted:
                return self._senders[key][1]
            self._senders.pop(key)[1].close()
        version = ipaddress.ip_address(peer.address).version
        v4 = version == 4
        try:
            sock = _udp(version)
        except OSError as error:
            self._errors[key] = f"cannot send BFD: {error}"
            return None
        try:
            if v4:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xC0)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xC0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
            self._bind(sock, peer.source or ("0.0.0.0" if v4 else "::"))  # noqa: S104
        except OSError as error:
            self._errors[key] = f"cannot send BFD: {error}"
            sock.close()
            return None
        self._errors.pop(key, None)
        self._senders[key] = (wanted, sock)
        return sock

    @staticmethod
    def _bind(sock: socket.socket, source: str) -> None:
        """A source port in BFD's range that no other session uses (RFC 5881 section 4)."""
        for _ in range(63):
            with contextlib.suppress(OSError):
                sock.bind((source, random.choice(_PORTS)))  # noqa: S311 - a free port, not a secret
                return
        sock.bind((source, random.choice(_PORTS)))  # noqa: S311 - its error is the caller's

    def flush(self) -> None:
        """Send what the sessions have pending."""
        for key, session in self._speaker.bfd_sessions().items():
            peer = self._speaker.peer(key)
            if peer is not None:
                self._send(key, peer, session)
                self._echo.send(key, session)

    def _send(self, key: str, peer: BgpPeer, session: Session) -> None:
        packets = session.pending()
        sock = self._sender(key, peer) if packets else None
        if sock is None:
            return
        port = MULTIHOP_PORT if peer.multihop else CONTROL_PORT
        for packet in packets:
            with contextlib.suppress(OSError):  # no route now: that is what BFD is to find out
                sock.sendto(packet, (peer.address, port))

    def close(self) -> None:
        self._echo.close()
        for sock in self._receivers.values():
            self._unwatch(sock.fileno())
            sock.close()
        for _, sock in self._senders.values():
            sock.close()
        self._receivers.clear()
        self._senders.clear()
