"""BFD echo packets on the wire (RFC 5881 section 4): IP packets to ourselves, handed to the peer's link address.

The kernel would never send such a packet, so it leaves by an AF_PACKET socket; nor would it take one back,
so it is read there, too, behind a kernel filter for UDP port 3785. The peer's own echo packets are looped by
this node's kernel, where it forwards. Some peers address theirs to us instead (FRR does over IPv6): those come
to a UDP socket and are sent back one for one, to peers with a session in echo mode only.
"""

from __future__ import annotations

import array
import contextlib
import errno
import ipaddress
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from metallb_speaker.announcer.bfd.echo import discriminator_of
from metallb_speaker.announcer.bfd.session import Session
from metallb_speaker.announcer.bfd.wire import ECHO_PORT, State
from metallb_speaker.announcer.bgp.speaker import BgpSpeaker
from metallb_speaker.announcer.edge import addresses
from metallb_speaker.announcer.layer2.api import Unwatch, Watch
from metallb_speaker.desired import BgpPeer

#: Seconds between two looks at the peer's link address: it can be replaced, and neighbour entries age.
LOOK_EVERY = 1.0
#: Packets that one socket may read in a turn.
BATCH = 64

_ETHER_TYPE = {4: 0x0800, 6: 0x86DD}
_SO_ATTACH_FILTER = 26
_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30
_NDA_DST, _NDA_LLADDR = 1, 2
#: NUD states in which the address is good or was a moment ago: REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT.
_NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80
_NLMSG = struct.Struct("=IHHII")
_NDMSG = struct.Struct("=BxxxiHBB")
_ATTRIBUTE = struct.Struct("=HH")
# Classic BPF (code, jump if true, jump if false, operand): UDP to the echo port, not a later fragment.
_FILTER = {
    4: [
        (0x30, 0, 0, 9),  # protocol
        (0x15, 0, 6, 17),
        (0x28, 0, 0, 6),  # fragment offset
        (0x45, 4, 0, 0x1FFF),
        (0xB1, 0, 0, 0),  # header length
        (0x48, 0, 0, 2),  # destination port
        (0x15, 0, 1, ECHO_PORT),
        (0x06, 0, 0, 0xFFFF),
        (0x06, 0, 0, 0),
    ],
    6: [
        (0x30, 0, 0, 6),  # next header
        (0x15, 0, 3, 17),
        (0x28, 0, 0, 42),
        (0x15, 0, 1, ECHO_PORT),
        (0x06, 0, 0, 0xFFFF),
        (0x06, 0, 0, 0),
    ],
}


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(own: addresses.Address, payload: bytes) -> bytes:
    """An IP packet with an echo payload from and to `own`, TTL 255 (RFC 5881 section 5)."""
    length = 8 + len(payload)
    address = own.packed
    udp = struct.pack("!HHHH", ECHO_PORT, ECHO_PORT, length, 0) + payload
    if own.version == 4:
        pseudo = address + address + struct.pack("!BBH", 0, 17, length)
        head = struct.pack("!BBHHHBBH", 0x45, 0xC0, 20 + length, 0, 0x4000, 255, 17, 0) + address + address
        head = head[:10] + checksum(head).to_bytes(2) + head[12:]
    else:
        pseudo = address + address + struct.pack("!IxxxB", length, 17)
        head = struct.pack("!IHBB", 6 << 28 | 0xC0 << 20, length, 17, 255) + address + address
    # A computed zero is sent as all ones: zero says that there is no checksum (RFC 768).
    return head + udp[:6] + (checksum(pseudo + udp) or 0xFFFF).to_bytes(2) + payload


def payload_of(data: bytes, version: int) -> bytes:
    """What the filter let through, without its headers; b"" when it is too short."""
    start = (data[0] & 0x0F) * 4 + 8 if version == 4 and data else 48
    return data[start:]


def link_address(peer: addresses.Address, index: int) -> bytes:
    """The peer's link address from the kernel's neighbour table; b"" when it is not known."""
    family = socket.AF_INET if peer.version == 4 else socket.AF_INET6
    body = _NDMSG.pack(family, index, 0, 0, 0)
    body += _ATTRIBUTE.pack(4 + len(peer.packed), _NDA_DST) + peer.packed
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
            sock.settimeout(0.2)
            sock.bind((0, 0))
            sock.send(_NLMSG.pack(_NLMSG.size + len(body), _RTM_GETNEIGH, 1, 1, 0) + body)
            return parse_neighbor(sock.recv(4096))
    except OSError:
        return b""


def parse_neighbor(data: bytes) -> bytes:
    """The link address in one RTM_NEWNEIGH; b"" when there is no valid one."""
    at = _NLMSG.size + _NDMSG.size
    if len(data) < at or _NLMSG.unpack_from(data)[1] != _RTM_NEWNEIGH:
        return b""
    if not _NDMSG.unpack_from(data, _NLMSG.size)[2] & _NUD_VALID:
        return b""
    while at + _ATTRIBUTE.size <= len(data):
        size, name = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size or at + size > len(data):
            break
        if name == _NDA_LLADDR:
            return data[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
    return b""


def forwards(version: int, interface: str, root: Path = Path("/proc/sys/net")) -> bool:
    """Whether the kernel forwards what comes in by the interface: only then does it loop a peer's echo packets."""
    try:
        return (root / f"ipv{version}" / "conf" / interface / "forwarding").read_text().strip() == "1"
    except OSError:
        return False


@dataclass(slots=True)
class _Path:
    """How echo packets reach one peer."""

    peer: str  # address
    own: addresses.Address
    interface: str
    mac: bytes


class EchoEdge:
    """Carries echo packets of the sessions that have `echo-mode`; costs nothing without one."""

    def __init__(self, speaker: BgpSpeaker, watch: Watch, unwatch: Unwatch) -> None:
        self._speaker = speaker
        self._watch, self._unwatch = watch, unwatch
        self._paths: dict[str, _Path] = {}
        self._sockets: dict[tuple[str, int], socket.socket] = {}  # (interface, version)
        self._loopers: dict[int, socket.socket] = {}  # version
        self._look_at = 0.0
        self.errors: dict[str, str] = {}

    def follow(self, now: float) -> None:
        """Find the way to every peer with echo mode, and forget the others; once a second."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY
        wanted: dict[str, BgpPeer] = {}
        for key, session in self._speaker.bfd_sessions().items():
            peer = self._speaker.peer(key)
            if peer is not None and session.profile.echo_mode and not peer.multihop:  # RFC 5883 section 3
                wanted[key] = peer
        if not wanted and not self._paths and not self._loopers:
            return
        for key in self._paths.keys() - wanted.keys():
            del self._paths[key]
            if (left := self._speaker.bfd(key)) is not None:
                left.set_echo(path=False, looped_here=False, now=now)
        for key, peer in wanted.items():
            self._look(key, peer, now)
        self._open(wanted)

    def _look(self, key: str, peer: BgpPeer, now: float) -> None:
        session = self._speaker.bfd(key)
        if session is None:
            return
        address = ipaddress.ip_address(peer.address)
        old = self._paths.get(key)
        found = _find(address, peer.source)
        if found is None or not found.mac:
            # An entry that is being resolved anew: the last address serves until the echoes themselves are lost.
            found = old if found is not None and old is not None and old.own == found.own else None
        if found is None:
            self._paths.pop(key, None)
            session.set_echo(path=False, looped_here=False, now=now)
            return
        self._paths[key] = found
        session.set_echo(path=True, looped_here=forwards(address.version, found.interface), now=now)

    def _open(self, wanted: dict[str, BgpPeer]) -> None:
        needed = {(p.interface, p.own.version) for p in self._paths.values()}
        for gone in self._sockets.keys() - needed:
            self._close(self._sockets.pop(gone))
        for interface, version in needed - self._sockets.keys():
            try:
                self._sockets[interface, version] = self._packet_socket(interface, version)
                self.errors.pop(f"echo on {interface}", None)
            except OSError as error:
                self.errors[f"echo on {interface}"] = f"cannot send or receive BFD echo packets: {error}"
        versions: set[int] = {ipaddress.ip_address(p.address).version for p in wanted.values()}
        for gone_version in self._loopers.keys() - versions:
            self._close(self._loopers.pop(gone_version))
        for missing in versions - self._loopers.keys():
            try:
                self._loopers[missing] = self._looper(missing)
                self.errors.pop(f"port {ECHO_PORT}", None)
            except OSError as error:
                self.errors[f"port {ECHO_PORT}"] = f"cannot loop BFD echo packets: {error}"

    def _packet_socket(self, interface: str, version: int) -> socket.socket:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        sock = socket.socket(socket.AF_PACKET, kind, 0)  # protocol 0: receives nothing until it has its filter
        try:
            program = b"".join(struct.pack("=HBBI", *line) for line in _FILTER[version])
            _attach(sock, program)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
            sock.bind((interface, _ETHER_TYPE[version]))
        except OSError:
            sock.close()
            raise
        self._watch(sock.fileno(), lambda now: self._read(sock, version, now))
        return sock

    def _read(self, sock: socket.socket, version: int, now: float) -> None:
        for _ in range(BATCH):
            try:
                data, origin = sock.recvfrom(256)
            except OSError:
                return
            if origin[2] != 0:  # PACKET_HOST
                continue
            payload = payload_of(data, version)
            key = self._speaker.bfd_by_discriminator(discriminator_of(payload))
            session = self._speaker.bfd(key) if key is not None else None
            if session is not None:
                session.echo.returned(payload, now)

    def _looper(self, version: int) -> socket.socket:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if version == 4:
                sock.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 254)
                sock.bind(("0.0.0.0", ECHO_PORT))  # noqa: S104 - packets are taken by address, state and TTL
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 254)
                sock.bind(("::", ECHO_PORT))
        except OSError:
            sock.close()
            raise
        self._watch(sock.fileno(), lambda _now: self._loop(sock))
        return sock

    def _loop(self, sock: socket.socket) -> None:
        """Send a peer's packets back as a forwarding plane would: a hop fewer, unread."""
        for _ in range(BATCH):
            try:
                data, ancillary, _, remote = sock.recvmsg(256, 64)
            except OSError:
                return
            ttl = next((struct.unpack("=i", v[:4])[0] for _, _, v in ancillary if len(v) >= 4), 0)
            source = str(remote[0]).split("%")[0]
            if ttl == 255 and any(
                path.peer == source and self._is_up(key) for key, path in self._paths.items()
            ):  # RFC 5881 section 5: from the link itself
                with contextlib.suppress(OSError):
                    sock.sendto(data, remote)

    def _is_up(self, key: str) -> bool:
        session = self._speaker.bfd(key)
        return session is not None and session.state is State.UP

    def send(self, key: str, session: Session) -> None:
        """Send what the session's echo has pending."""
        payloads = session.echo.pending()
        path = self._paths.get(key)
        if not payloads or path is None:
            return
        sock = self._sockets.get((path.interface, path.own.version))
        if sock is None:
            return
        target = (path.interface, _ETHER_TYPE[path.own.version], 0, 1, path.mac)
        for payload in payloads:
            with contextlib.suppress(OSError):  # the interface is down: what comes back, or does not, tells
                sock.sendto(packet(path.own, payload), target)

    def _close(self, sock: socket.socket) -> None:
        self._unwatch(sock.fileno())
        sock.close()

    def close(self) -> None:
        for sock in [*self._sockets.values(), *self._loopers.values()]:
            self._close(sock)
        self._sockets.clear()
        self._loopers.clear()


def _attach(sock: socket.socket, program: bytes) -> None:
    code = array.array("B", program)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program) // 8, code.buffer_info()[0]))


def _find(peer: addresses.Address, source: str) -> _Path | None:
    """Own address, interface and the peer's link address; None when the kernel has no way to the peer."""
    try:
        with socket.socket(socket.AF_INET if peer.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            if source:
                probe.bind((source, 0))
            probe.connect((str(peer), ECHO_PORT))
            own = ipaddress.ip_address(probe.getsockname()[0])
        index = next((found.interface for found in addresses.read() if found.address == own), 0)
        if not index:
            raise OSError(errno.ENODEV, "no interface has the address")
        return _Path(str(peer), own, socket.if_indextoname(index), link_address(peer, index))
    except (OSError, ValueError):
        return None
